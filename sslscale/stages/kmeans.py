"""k-means of features that lie in shards, by partial sums on all workers; each iteration is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sslscale.errors import DataError
from sslscale.graph.artifacts import Clusters, Embeddings
from sslscale.graph.context import RunContext
from sslscale.settings.features import KMeansConfig

_STATE = "state/kmeans.npz"
_PART = 8  # rows of one part for each centroid: sums cost little beside the rows they are sums of


def kmeans(ctx: RunContext, config: KMeansConfig, *, features: Embeddings) -> Clusters:
    """Cluster the features and write centroids.npy, SPLIT/clusters-%06d.npy, sizes.png and the log of the inertia.

    Goes on from the last whole iteration. Empty clusters take half of the largest one; what is empty in the end (there
    are fewer distinct images than clusters) is left out, and `k` of the result is smaller.
    """
    import numpy as np

    from sslscale.cluster.mappers import Mappers
    from sslscale.data.features import Features, write_array
    from sslscale.report.figures import cluster_sizes
    from sslscale.train import kmeans as algorithm

    splits = tuple(split for split in config.splits if split in features.num_samples)
    if not splits:
        raise DataError(f"{ctx.name}: there are no features of the splits {', '.join(config.splits)}")
    found = Features(features.dir, splits)
    if config.k > len(found):
        raise DataError(f"{ctx.name}: k {config.k:,} is more than the {len(found):,} images; lower k")
    parts = _parts([rows for rows, _ in found.shapes], _PART * config.k)
    state = _load(ctx.path / _STATE)
    if state is None:
        first = algorithm.first_centroids(
            _sample(found, config), config.k, init=config.init, generator=np.random.default_rng([config.seed, 1])
        )
        state = {"step": 0, "centroids": first, "seen": np.zeros(config.k, np.int64), "inertia": np.inf, "done": False}
    ctx.rewind(int(state["step"]))
    minibatch = config.minibatch < 1
    make = partial(make_worker, features.dir, splits, parts, config)
    with Mappers(make, ctx, len(parts)) as mappers:
        while not state["done"] and state["step"] < config.num_iterations:
            step = int(state["step"]) + 1
            chosen = _chosen(len(parts), config, step)
            total, *others = mappers.map([("sum", part) for part in chosen], state["centroids"])
            for other in others:  # in order: floating-point sums depend on it
                total = total + other
            rows = max(int(total.counts.sum()), 1)
            inertia = total.inertia / rows
            seen = state["seen"].copy() if minibatch else None
            centroids, split = algorithm.update(state["centroids"], total, spherical=config.spherical, seen=seen)
            still = not minibatch and state["inertia"] - inertia <= config.tolerance * inertia and split == 0
            state = {
                "step": step,
                "centroids": centroids,
                "seen": state["seen"] if seen is None else seen,
                "inertia": inertia,
                "done": still,
            }
            _save(ctx.path / _STATE, state)
            ctx.log(step, {"inertia": inertia, "split_clusters": split})
            ctx.progress(step, config.num_iterations, loss=inertia)
        counts = np.sum(mappers.map([("assign", part) for part in range(len(parts))], state["centroids"]), axis=0)
    centroids, used = state["centroids"], np.flatnonzero(counts)
    if len(used) < config.k:  # numbers without gaps
        numbers = np.zeros(config.k, np.int32)
        numbers[used] = np.arange(len(used), dtype=np.int32)
        for file in (file for split in splits for file in sorted((ctx.path / split).glob("clusters-*.npy"))):
            write_array(file, numbers[np.load(file, allow_pickle=False)])
        centroids, counts = centroids[used], counts[used]
    write_array(ctx.path / "centroids.npy", centroids)
    cluster_sizes(ctx.path, counts.tolist())
    (ctx.path / _STATE).unlink()
    (ctx.path / _STATE).parent.rmdir()
    metrics = {
        "inertia": float(state["inertia"]),
        "iterations": int(state["step"]),
        "clusters": len(used),
        "empty": config.k - len(used),
        "largest_share": float(counts.max() / counts.sum()),
    }
    return Clusters(path=str(ctx.path), k=len(used), splits=splits, metrics=metrics)


def make_worker(
    folder: Path, splits: tuple[str, ...], parts: list[range], config: KMeansConfig, ctx: RunContext
) -> Callable[[tuple[str, int], Any], Any]:
    """Find the files once a process; returns the function that sums or assigns one part of them."""
    import numpy as np
    import torch

    from sslscale.data.features import Features, write_array
    from sslscale.train import kmeans as algorithm
    from sslscale.train.engine import best_device

    torch.set_num_threads(ctx.threads)
    found, device = Features(folder, splits), best_device(ctx.resources)

    def work(item: tuple[str, int], centroids: Any) -> Any:
        task, part = item
        if task == "sum":
            files = (found.file(number) for number in parts[part])
            return algorithm.partial(files, centroids, normalize=config.normalize, device=device)
        counts = np.zeros(config.k, np.int64)
        for number in parts[part]:
            source = found.files[number]
            labels = algorithm.assign(found.file(number), centroids, normalize=config.normalize, device=device)
            write_array(ctx.path / source.parent.name / source.name.replace("features", "clusters"), labels)
            counts += np.bincount(labels[labels >= 0], minlength=config.k)
        return counts

    return work


def _parts(sizes: list[int], rows: int) -> list[range]:
    """Files one after another in parts of at least so many rows: the same on any number of workers."""
    parts, start, count = [], 0, 0
    for number, size in enumerate(sizes):
        count += size
        if count >= rows or number == len(sizes) - 1:
            parts.append(range(start, number + 1))
            start, count = number + 1, 0
    return parts


def _chosen(num_parts: int, config: KMeansConfig, step: int) -> list[int]:
    """The parts that one iteration reads: all, or the next share of an order that changes with every pass."""
    import numpy as np

    if config.minibatch >= 1:
        return list(range(num_parts))
    size = max(round(config.minibatch * num_parts), 1)
    passes, place = divmod((step - 1) * size, num_parts)
    orders = [np.random.default_rng([config.seed, 2, p]).permutation(num_parts) for p in (passes, passes + 1)]
    return sorted({int(part) for part in np.concatenate(orders)[place : place + size]})


def _sample(found: Any, config: KMeansConfig) -> Any:
    """Rows to draw the first centroids from: usable ones, distinct where there are enough, float32."""
    import numpy as np

    generator = np.random.default_rng([config.seed, 0])
    starts = np.cumsum([0, *(rows for rows, _ in found.shapes)])
    wanted = min(len(found), config.sample * config.k)
    numbers = np.sort(generator.choice(len(found), wanted, replace=False))
    shard = np.searchsorted(starts, numbers, side="right") - 1
    rows = found.take(shard, numbers - starts[shard])
    rows = rows[np.isfinite(rows).all(1)]
    if config.normalize:
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    _, first = np.unique(rows, axis=0, return_index=True)
    if len(first) >= config.k:
        return rows[np.sort(first)]
    if len(rows) < config.k:
        raise DataError(f"k {config.k:,} is more than the {len(rows):,} images that can be decoded; lower k")
    return rows


def _save(file: Path, state: Mapping[str, Any]) -> None:
    import io

    import numpy as np

    from sslscale.storage import jsonio

    data = io.BytesIO()
    np.savez(data, **state)
    file.parent.mkdir(exist_ok=True)
    jsonio.write_bytes(file, data.getvalue())


def _load(file: Path) -> dict[str, Any] | None:
    import numpy as np

    if not file.exists():
        return None
    with np.load(file, allow_pickle=False) as state:
        return {name: value if value.ndim else value.item() for name, value in state.items()}
