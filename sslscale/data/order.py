"""The order in which samples are seen: a function of (seed, epoch) alone, never of workers or restarts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WINDOW = 1 << 16  # samples of a window, in sets of more than two windows
LEAST_BLOCKS = 16  # of a window: shards that are sorted by class must not make one-sided batches


class Window(NamedTuple):
    """A run of permuted blocks whose samples are shuffled together: which one, its blocks, where it begins and ends."""

    epoch: int
    number: int
    blocks: np.ndarray
    begin: int
    end: int


class Order:
    """An endless sequence of sample numbers: epoch after epoch, each a permutation of all samples.

    Samples are numbered through the blocks (shards) in order. Up to two windows of samples the permutation is uniform.
    Above, whole blocks are permuted and grouped into windows, and each window is permuted: what is read next is known
    ahead of need, every block is read once an epoch, and memory is bounded.
    """

    def __init__(self, block_sizes: Sequence[int], seed: int, *, window: int = WINDOW):
        self.num_samples = int(sum(block_sizes))
        if self.num_samples == 0:
            raise ValueError("there are no samples to order")
        self._sizes = np.asarray(block_sizes, np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)])
        self._seed, self._window = seed, window
        self.windowed = self.num_samples > 2 * window and len(self._sizes) > LEAST_BLOCKS
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}  # the last ones: see _epoch
        self._held: tuple[int, ...] | None = None
        self._type = np.int32 if self.num_samples < 1 << 31 else np.int64  # half the memory of a window
        self._permutation = np.empty(0, self._type)

    def take(self, position: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample numbers and epochs, int64 (count,), of positions position .. position + count - 1.

        In windows they come sorted by block, so that workers who take a part each need few blocks each.
        """
        samples, epochs = [], []
        while count:
            window = self.window(position)
            offset = position - window.epoch * self.num_samples
            chunk = self._permuted(window)[offset - window.begin :][:count]
            samples.append(chunk.astype(np.int64))
            epochs.append(np.full(len(chunk), window.epoch, np.int64))
            position, count = position + len(chunk), count - len(chunk)
        numbers, epoch = np.concatenate(samples), np.concatenate(epochs)
        if self.windowed:
            place = np.argsort(np.searchsorted(self._starts, numbers, side="right"), kind="stable")
            numbers, epoch = numbers[place], epoch[place]
        return numbers, epoch

    def window(self, position: int) -> Window:
        """The window of a position."""
        epoch, offset = divmod(position, self.num_samples)
        blocks, cuts, ends = self._epoch(epoch)
        number = int(np.searchsorted(ends, offset, side="right")) - 1
        return Window(epoch, number, blocks[cuts[number] : cuts[number + 1]], int(ends[number]), int(ends[number + 1]))

    def after(self, window: Window) -> Window:
        """The next window."""
        return self.window(window.epoch * self.num_samples + window.end)

    def part(self, window: Window, share: int, shares: int) -> np.ndarray:
        """The blocks of a window that part `share` of `shares` of its batches reads, for the most part."""
        blocks = np.sort(window.blocks)
        ends = np.cumsum(self._sizes[blocks])
        low, high = (int(ends[-1]) * at // shares for at in (share, share + 1))
        return blocks[(ends > low) & (ends - self._sizes[blocks] < high)]

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The blocks of an epoch in order, and where its windows begin and end: in blocks, and in samples."""
        if epoch not in self._epochs:
            blocks, cuts = np.arange(len(self._sizes)), [0, len(self._sizes)]
            if self.windowed:
                blocks = np.random.default_rng([self._seed, epoch]).permutation(blocks)
                cuts = self._cuts(np.cumsum(self._sizes[blocks]))
            ends = np.concatenate([[0], np.cumsum(self._sizes[blocks])])[cuts]
            self._epochs = {known: value for known, value in self._epochs.items() if abs(known - epoch) < 2}
            self._epochs[epoch] = blocks, np.array(cuts), ends
        return self._epochs[epoch]

    def _cuts(self, ends: np.ndarray) -> list[int]:
        """Windows of enough samples and enough blocks; what is left at the end goes into the last one."""
        cuts = [0]
        while cuts[-1] < len(ends):
            begun = int(ends[cuts[-1] - 1]) if cuts[-1] else 0
            enough = int(np.searchsorted(ends, begun + self._window)) + 1
            cut = max(enough, cuts[-1] + LEAST_BLOCKS)
            cuts.append(len(ends) if cut + LEAST_BLOCKS > len(ends) else cut)
        return cuts

    def _permuted(self, window: Window) -> np.ndarray:
        """All sample numbers of a window in their order; the last window is kept."""
        if self._held != window[:2]:
            runs = [(int(self._starts[block]), int(self._starts[block + 1])) for block in window.blocks]
            numbers = np.concatenate([np.arange(*run, dtype=self._type) for run in runs])
            salt = [window.number] if self.windowed else []
            np.random.default_rng([self._seed, window.epoch, *salt]).shuffle(numbers)
            self._permutation, self._held = numbers, window[:2]
        return self._permutation
