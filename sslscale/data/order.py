"""The order in which samples are seen: a function of (seed, epoch) alone, never of workers or restarts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WINDOW = 1 << 20  # samples shuffled together; larger sets are shuffled by blocks, then within windows of blocks


class Order:
    """An endless sequence of sample numbers: epoch after epoch, each a permutation of all samples.

    Samples are numbered through the blocks (shards) in order. Up to `window` samples the permutation is uniform. Above,
    whole blocks are permuted and grouped into windows, and each window is permuted, so that reading stays near
    sequential and memory bounded.
    """

    def __init__(self, block_sizes: Sequence[int], seed: int, *, window: int = WINDOW):
        self.num_samples = int(sum(block_sizes))
        if self.num_samples == 0:
            raise ValueError("there are no samples to order")
        self._sizes = np.asarray(block_sizes, np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)])
        self._seed, self._window = seed, window
        self._held: tuple[int, int] | None = None
        self._type = np.int32 if self.num_samples < 1 << 31 else np.int64  # half the memory of a window
        self._permutation = np.empty(0, self._type)

    def take(self, position: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample numbers and epochs, int64 (count,), of positions position .. position + count - 1."""
        samples, epochs = [], []
        while count:
            epoch, offset = divmod(position, self.num_samples)
            chunk = self._chunk(epoch, offset, count)
            samples.append(chunk.astype(np.int64))
            epochs.append(np.full(len(chunk), epoch, np.int64))
            position, count = position + len(chunk), count - len(chunk)
        return np.concatenate(samples), np.concatenate(epochs)

    def _chunk(self, epoch: int, offset: int, count: int) -> np.ndarray:
        """Up to `count` numbers from `offset` of one epoch, at most to the end of a window."""
        if self.num_samples <= self._window:
            if self._held != (epoch, 0):
                numbers = np.arange(self.num_samples, dtype=self._type)
                self._permutation = np.random.default_rng([self._seed, epoch]).permutation(numbers)
                self._held = (epoch, 0)
            return self._permutation[offset : offset + count]
        blocks = np.random.default_rng([self._seed, epoch]).permutation(len(self._sizes))
        ends = np.cumsum(self._sizes[blocks])
        first = 0
        while True:  # windows are runs of permuted blocks of at least `window` samples
            begin = ends[first - 1] if first else 0
            last = int(np.searchsorted(ends, begin + self._window))
            last = min(last, len(blocks) - 1)
            if offset < ends[last]:
                break
            first = last + 1
        if self._held != (epoch, first + 1):
            runs = [(int(self._starts[b]), int(self._starts[b + 1])) for b in blocks[first : last + 1]]
            numbers = np.concatenate([np.arange(*run, dtype=self._type) for run in runs])
            np.random.default_rng([self._seed, epoch, first]).shuffle(numbers)
            self._permutation = numbers
            self._held = (epoch, first + 1)
        return self._permutation[offset - begin : offset - begin + count]
