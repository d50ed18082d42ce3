"""What a stream reads: an ordered list of samples, each an image of some shard with its label or pseudo-label."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from sslscale.data.shards import Index, Shard, open_shards, read_index
from sslscale.errors import DataError


@dataclass(frozen=True)
class Samples:
    """Samples 0 .. n - 1 of some shards. `labels` is -1 where there is none; `soft` says how pseudo-labels are read."""

    index: Index
    shards: list[Shard]
    shard: np.ndarray  # int32 (n,)
    row: np.ndarray  # int32 (n,)
    labels: np.ndarray  # int64 (n,)
    block_sizes: Sequence[int]
    table: np.ndarray | None = None  # float32 (n, classes): pseudo-labels joined at read time
    stored: bool = False  # pseudo-labels stand in the shards
    copies: np.ndarray | None = None  # int32 (n,): which repeat of its image a sample is

    def __len__(self) -> int:
        return len(self.row)

    @property
    def has_soft(self) -> bool:
        """Whether each sample has a pseudo-label."""
        return self.stored or self.table is not None

    def soft(self, numbers: np.ndarray) -> np.ndarray | None:
        """Pseudo-labels of these samples, float32 (len(numbers), classes)."""
        if self.table is not None:
            return self.table[numbers]
        if not self.stored:
            return None
        found = [self.shards[int(self.shard[n])].soft(int(self.row[n])) for n in numbers]
        return np.stack([np.asarray(x, np.float32) for x in found])

    def key(self, number: int) -> str:
        """The key of one sample; the repeats of an image have keys of their own."""
        key = self.shards[int(self.shard[number])].keys[int(self.row[number])]
        copy = 0 if self.copies is None else int(self.copies[number])
        return f"{key}-copy{copy}" if copy else key

    def without(self, bad: Sequence[Mapping[int, str]]) -> Samples:
        """The same samples less those whose image cannot be decoded."""
        if not any(bad):
            return self
        keep = np.ones(len(self), bool)
        for number, rows in enumerate(bad):
            keep &= ~((self.shard == number) & np.isin(self.row, list(rows)))
        bounds = np.concatenate([[0], np.cumsum(self.block_sizes)]).astype(int)
        sizes = [int(keep[a:b].sum()) for a, b in pairwise(bounds)]
        return dataclasses.replace(
            self,
            shard=self.shard[keep],
            row=self.row[keep],
            labels=self.labels[keep],
            block_sizes=sizes,
            table=None if self.table is None else self.table[keep],
            copies=None if self.copies is None else self.copies[keep],
        )


def open_samples(folder: Path, *, labels: bool = True) -> Samples:
    """All samples of a folder of shards, in order. Checks every shard against the index.

    With `labels` every sample must have one, from KEY.soft.npy or KEY.cls; raises DataError naming shard and key.
    """
    index = read_index(folder)
    opened = list(open_shards(index))
    seen: set[str] = set()
    for shard in opened:
        twice = seen.intersection(shard.keys)
        if twice:
            raise DataError(f"{shard.path}: the key {min(twice)!r} stands in another shard too")
        seen.update(shard.keys)
    stored = bool(opened) and bool(opened[0].has_soft.any())
    every = [shard.labels(len(index.classes)) for shard in opened]
    for shard, found in zip(opened, every, strict=True):
        missing = np.flatnonzero(~shard.has_soft if stored else found < 0)
        if labels and len(missing):
            raise DataError(f"{shard.path}: {shard.keys[missing[0]]}: has no label")
    sizes = [len(shard) for shard in opened]
    return Samples(
        index,
        opened,
        np.repeat(np.arange(len(opened), dtype=np.int32), sizes),
        np.concatenate([np.arange(n, dtype=np.int32) for n in sizes] or [np.empty(0, np.int32)]),
        np.concatenate(every or [np.empty(0, np.int64)]),
        sizes,
        stored=stored and labels,
    )
