"""Which pseudo-labelled images to keep, and how often: decided from (class, confidence) alone, in bounded memory.

Memory is a histogram of the confidences of each class, and the rows of the one bin in which a class's cut falls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from sslscale.settings.pseudo import SelectConfig

# Bins are the upper bits of float32, whose order is that of the numbers: 2,048 bins in each of [1/4, 1/2) and
# [1/2, 1), and finer ones below. One bin above all holds 1.0 itself.
_SHIFT = 12
_ONE = int(np.float32(1).view(np.uint32)) >> _SHIFT
_LOWEST = int(np.float32(2**-16).view(np.uint32)) >> _SHIFT
NUM_BINS = _ONE - _LOWEST + 1


def confidence_bin(confidence: np.ndarray) -> np.ndarray:
    """The bin of each confidence, rising with it."""
    bits = confidence.astype(np.float32).view(np.uint32) >> _SHIFT
    return np.clip(bits.astype(np.int64), _LOWEST, _ONE) - _LOWEST


@dataclass
class Chunk:
    """Some rows of one table: float32 confidence and int class."""

    number: int
    label: np.ndarray
    confidence: np.ndarray


Chunks = Callable[[], Iterator[Chunk]]


@dataclass(frozen=True)
class Decision:
    """How many times each row of a chunk is used, and the counts that explain it."""

    copies: Callable[[Chunk], np.ndarray]
    per_class: int
    above: np.ndarray  # int64 (classes,): images at or above the threshold
    thresholds: np.ndarray  # float64 (classes,): the lowest confidence that is used


def decide(chunks: Chunks, num_classes: int, config: SelectConfig) -> Decision:
    """Read all chunks (up to twice) and return the rule that says how often each row is used."""
    above = np.zeros(num_classes, np.int64)
    grid = np.zeros((num_classes, 101), np.int64)
    bins = np.zeros((num_classes, NUM_BINS), np.int64)
    for chunk in chunks():
        keep = chunk.confidence >= config.threshold
        label, confidence = chunk.label[keep], chunk.confidence[keep]
        above += np.bincount(label, minlength=num_classes)
        if config.balance == "code":
            np.add.at(grid, (label, (confidence.astype(np.float64) * 100 + 1e-6).astype(np.int64)), 1)
        elif config.balance == "paper":
            bins += np.bincount(label * NUM_BINS + confidence_bin(confidence), minlength=bins.size).reshape(bins.shape)
    target = config.per_class or max(round(above.sum() / num_classes), 1)
    if config.balance == "none":
        return Decision(lambda c: _above(c, config).astype(np.int32), target, above, _flat(num_classes, config))
    if config.balance == "code":
        return _as_in_the_code(grid, above, target, config)
    return _as_in_the_paper(chunks, bins, above, target, config)


def _above(chunk: Chunk, config: SelectConfig) -> np.ndarray:
    return chunk.confidence >= config.threshold


def _flat(num_classes: int, config: SelectConfig) -> np.ndarray:
    return np.full(num_classes, config.threshold, np.float64)


def _as_in_the_code(grid: np.ndarray, above: np.ndarray, target: int, config: SelectConfig) -> Decision:
    """filter_unlabel.py: the highest point of the grid that leaves `target` images, or the floor.

    Each image at or above it is used target / count times, the fraction by a coin of its own.
    """
    thresholds = _flat(len(grid), config)
    counts = above.copy()
    for label, row in enumerate(grid):
        from_top = np.cumsum(row[::-1])[::-1]
        enough = np.flatnonzero(from_top >= target)
        if len(enough) and enough[-1] / 100 > config.threshold:
            thresholds[label], counts[label] = enough[-1] / 100, from_top[enough[-1]]
    share = target / np.maximum(counts, 1)

    def copies(chunk: Chunk) -> np.ndarray:
        exact = share[chunk.label]
        coin = _bernoulli(config.seed, chunk.number, len(exact))
        times = (np.floor(exact) + (coin < exact - np.floor(exact))).astype(np.int32)
        # the same arithmetic as the grid's, so that a confidence on a grid point falls on the same side
        point = np.floor(chunk.confidence.astype(np.float64) * 100 + 1e-6) / 100
        on_grid = np.where(thresholds[chunk.label] > config.threshold, point, chunk.confidence)
        return np.where(_above(chunk, config) & (on_grid >= thresholds[chunk.label]), times, 0)

    return Decision(copies, target, above, thresholds)


def _as_in_the_paper(
    chunks: Chunks, bins: np.ndarray, above: np.ndarray, target: int, config: SelectConfig
) -> Decision:
    """Section 4.1: the `target` most confident images of a class; where there are fewer, all, and again from the top.

    Ties are broken by a coin of each row, so that no shard is preferred.
    """
    whole = np.where(above > 0, target // np.maximum(above, 1), 0)  # times that every image above the floor is used
    extra = np.where(above > 0, target - whole * above, 0)  # the most confident ones once more
    cut = np.full(len(bins), NUM_BINS, np.int64)  # rows in bins above the cut are all among the extra
    wanted = np.zeros(len(bins), np.int64)  # rows of the cut bin that are among them
    for label, row in enumerate(bins):
        if extra[label]:
            from_top = np.cumsum(row[::-1])[::-1]
            cut[label] = np.flatnonzero(from_top >= extra[label])[-1]
            wanted[label] = extra[label] - (from_top[cut[label]] - row[cut[label]])
    candidates: list[np.ndarray] = []
    for chunk in chunks() if extra.any() else ():
        keep = _above(chunk, config) & (confidence_bin(chunk.confidence) == cut[chunk.label])
        rows = np.flatnonzero(keep)
        coin = _bernoulli(config.seed, chunk.number, len(keep))[rows]
        entry = np.empty(len(rows), _CANDIDATE)
        entry["label"], entry["confidence"], entry["coin"] = chunk.label[rows], chunk.confidence[rows], coin
        entry["chunk"], entry["row"] = chunk.number, rows
        candidates.append(entry)
    chosen: dict[int, np.ndarray] = {}
    thresholds = _flat(len(bins), config)
    if candidates:
        every = np.concatenate(candidates)
        every = every[np.lexsort((every["coin"], -every["confidence"], every["label"]))]
        first = np.searchsorted(every["label"], np.arange(len(bins)))
        place = np.arange(len(every)) - first[every["label"]]
        taken = every[place < wanted[every["label"]]]
        for label in np.flatnonzero((whole == 0) & (wanted > 0)):
            thresholds[label] = taken["confidence"][taken["label"] == label].min()
        taken = taken[np.argsort(taken["chunk"], kind="stable")]
        numbers, starts = np.unique(taken["chunk"], return_index=True)
        chosen = dict(zip(numbers.tolist(), np.split(taken["row"], starts[1:]), strict=True))

    def copies(chunk: Chunk) -> np.ndarray:
        times = np.where(_above(chunk, config), whole[chunk.label], 0)
        once_more = _above(chunk, config) & (confidence_bin(chunk.confidence) > cut[chunk.label])
        if chunk.number in chosen:
            once_more[chosen[chunk.number]] = True
        return (times + once_more).astype(np.int32)

    return Decision(copies, target, above, thresholds)


_CANDIDATE = np.dtype(
    [("label", np.int32), ("confidence", np.float32), ("coin", np.float32), ("chunk", np.int32), ("row", np.int32)]
)


def _bernoulli(seed: int, number: int, count: int) -> np.ndarray:
    """One uniform number for each row of a chunk, the same whenever it is asked for."""
    return np.random.default_rng([seed, 0xC011, number]).random(count, np.float32)
