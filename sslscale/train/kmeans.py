"""k-means over features that lie in many files: Lloyd's algorithm by partial sums (ClusterFit, arXiv:1912.03330).

Every iteration is a pass over the files. Each part of them gives sums, counts and inertia of its own, which are added
in the order of the parts, so that the result does not depend on how many workers there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from sslscale.errors import DataError
from sslscale.shapes import Float, Int

CHUNK = 2048  # rows compared with all centroids at once
_BLOCK = 32  # columns of which the largest is found first: argmax over all is 15 times as slow
_SPLIT = 1 / 1024  # how far the halves of a split cluster move apart, as in faiss


@dataclass(frozen=True)
class Partial:
    """What one part of the rows says of the centroids: sum and number of each cluster's rows, their squared error."""

    sums: Float[np.ndarray, "k dim"]
    counts: Int[np.ndarray, " k"]
    inertia: float

    def __add__(self, other: Partial) -> Partial:
        return Partial(self.sums + other.sums, self.counts + other.counts, self.inertia + other.inertia)


class Centroids:
    """Centroids ready to be compared with: the nearest c maximises x.c - |c|^2 / 2."""

    def __init__(self, values: Float[np.ndarray, "k dim"], device: torch.device):
        self.k, dim = values.shape
        padded = -(-self.k // _BLOCK) * _BLOCK
        centroids = torch.from_numpy(values).to(device, torch.float32)
        self._matrix = torch.zeros(dim, padded, device=device)
        self._matrix[:, : self.k] = centroids.T
        self._bias = torch.full((padded,), -torch.inf, device=device)
        self._bias[: self.k] = -0.5 * centroids.square().sum(1)
        self._scores = torch.empty(CHUNK, padded, device=device)

    def nearest(self, rows: Float[torch.Tensor, "n dim"]) -> tuple[Int[torch.Tensor, " n"], Float[torch.Tensor, " n"]]:
        """The nearest centroid c of at most CHUNK rows x, and |c|^2 / 2 - x.c: half its squared distance less |x|^2."""
        scores = torch.addmm(self._bias, rows, self._matrix, out=self._scores[: len(rows)])
        blocks = scores.view(len(rows), -1, _BLOCK)
        largest, block = blocks.amax(2).max(1)
        within = blocks[torch.arange(len(rows), device=rows.device), block].argmax(1)
        return block * _BLOCK + within, -largest


def rows_of(
    features: Float[np.ndarray, "_ dim"], *, normalize: bool, device: torch.device
) -> Iterator[tuple[Float[torch.Tensor, "m dim"], float]]:
    """The rows in chunks, as float32, each chunk with its sum of squares.

    Scales rows to length 1 if asked. Raises DataError for a row that holds a value that is not finite.
    """
    for start in range(0, len(features), CHUNK):
        rows = torch.from_numpy(np.array(features[start : start + CHUNK])).to(device).float()
        length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        if not bool(torch.isfinite(length).all()):
            row = start + int(torch.nonzero(~torch.isfinite(length[:, 0]))[0])
            raise DataError(f"row {row}: a feature is not a finite number")
        if normalize:
            rows, length = rows.div_(length.clamp_(min=1e-12)), torch.ones(())
        yield rows, float(length.square().sum()) if not normalize else float(len(rows))


@torch.inference_mode()
def partial(
    files: Iterable[Float[np.ndarray, "_ dim"]],
    centroids: Float[np.ndarray, "k dim"],
    *,
    normalize: bool,
    device: torch.device,
) -> Partial:
    """One part's share of an iteration."""
    ready = Centroids(centroids, device)
    sums = torch.zeros(ready.k, centroids.shape[1], dtype=torch.float64, device=device)
    counts = torch.zeros(ready.k, dtype=torch.int64, device=device)
    inertia = torch.zeros((), dtype=torch.float64, device=device)
    for features in files:
        chunked = torch.zeros(ready.k, centroids.shape[1], device=device)
        for rows, squares in rows_of(features, normalize=normalize, device=device):
            nearest, half = ready.nearest(rows)
            chunked.index_add_(0, nearest, rows)
            counts += torch.bincount(nearest, minlength=ready.k)
            inertia += 2 * half.sum(dtype=torch.float64) + squares
        sums += chunked  # float32 within a file, float64 over files
    return Partial(sums.cpu().numpy(), counts.cpu().numpy(), max(float(inertia), 0.0))


@torch.inference_mode()
def assign(
    features: Float[np.ndarray, "_ dim"],
    centroids: Float[np.ndarray, "k dim"],
    *,
    normalize: bool,
    device: torch.device,
) -> Int[np.ndarray, " n"]:
    """The nearest centroid of every row, int32."""
    ready = Centroids(centroids, device)
    found = np.empty(len(features), np.int32)
    for number, (rows, _) in enumerate(rows_of(features, normalize=normalize, device=device)):
        found[number * CHUNK : (number + 1) * CHUNK] = ready.nearest(rows)[0].cpu().numpy()
    return found


def update(
    centroids: Float[np.ndarray, "k dim"], total: Partial, *, spherical: bool, seen: Int[np.ndarray, " k"] | None = None
) -> tuple[Float[np.ndarray, "k dim"], int]:
    """The next centroids, and how many empty clusters were given half of a large one.

    `spherical` scales them to length 1. `seen` makes it a step of minibatch k-means (Sculley 2010, algorithm 1): a
    centroid is the mean of all rows it was ever given, `seen` of them before, and `seen` is brought up to date.
    """
    counts = total.counts
    new = centroids.copy()
    full = counts > 0
    if seen is None:
        new[full] = total.sums[full] / counts[full, None]
    else:
        seen += counts
        share = (counts[full] / seen[full])[:, None]
        new[full] = (1 - share) * centroids[full] + share * (total.sums[full] / counts[full, None])
    empty = np.flatnonzero(~full) if seen is None else np.flatnonzero(seen == 0)
    size = counts.astype(np.float64)
    sign = np.where(np.arange(new.shape[1]) % 2, 1 - _SPLIT, 1 + _SPLIT)
    split = 0
    for place in empty:
        largest = int(size.argmax())
        if size[largest] < 2:
            break
        new[place] = new[largest] * sign
        new[largest] = new[largest] * (2 - sign)
        size[place] = size[largest] = size[largest] / 2
        split += 1
    if spherical:
        new /= np.maximum(np.linalg.norm(new, axis=1, keepdims=True), 1e-12)
    return new.astype(np.float32), split


def first_centroids(
    sample: Float[np.ndarray, "n dim"], k: int, *, init: str, generator: np.random.Generator
) -> Float[np.ndarray, "k dim"]:
    """k rows of a sample: drawn evenly, or by k-means++ (Arthur & Vassilvitskii 2007: by squared distance)."""
    if init == "sample":
        return sample[generator.choice(len(sample), k, replace=False)].astype(np.float32)
    rows = torch.from_numpy(sample)
    chosen = [int(generator.integers(len(rows)))]
    distance = (rows - rows[chosen[0]]).square().sum(1)
    for _ in range(k - 1):
        weight = distance.double().numpy()
        total = weight.sum()
        far = int(generator.choice(len(rows), p=weight / total)) if total > 0 else int(generator.integers(len(rows)))
        chosen.append(far)
        distance = torch.minimum(distance, (rows - rows[far]).square().sum(1))
    return sample[chosen].astype(np.float32)


def fit(
    rows: Float[np.ndarray, "n dim"],
    k: int,
    *,
    num_iterations: int = 50,
    init: str = "k-means++",
    normalize: bool = False,
    seed: int = 0,
    device: torch.device | None = None,
) -> Float[np.ndarray, "k dim"]:
    """k-means of rows that are in memory."""
    device = device or torch.device("cpu")
    if k > len(rows):
        raise DataError(f"{k} clusters are more than the {len(rows)} rows")
    points = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) if normalize else rows
    centroids = first_centroids(points, k, init=init, generator=np.random.default_rng(seed))
    for _ in range(num_iterations):
        centroids, _ = update(centroids, partial([points], centroids, normalize=False, device=device), spherical=False)
    return centroids
