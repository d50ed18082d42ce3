"""What a stream reads: an ordered list of samples, each an image of some shard with its label or pseudo-label."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sslscale.data.features import Features, read_clusters, usable
from sslscale.data.index import INDEX, Index, read_index
from sslscale.data.shards import Shards
from sslscale.data.sources import HIDDEN
from sslscale.errors import DataError
from sslscale.storage import sums

if TYPE_CHECKING:
    from sslscale.settings.streams import Field


@dataclass(frozen=True)
class Samples:
    """Samples 0 .. n - 1 of some shards, in the shards' order or in an order of their own.

    `labels` is -1 where there is none. Kept small, a few bytes a sample: what a sample's key or place is, is looked up.
    """

    index: Index
    shards: Shards
    labels: np.ndarray  # int8, int16 or int32 (n,), as the classes need
    block_sizes: Sequence[int]
    order: tuple[np.ndarray, np.ndarray] | None = None  # shard and row of each sample, int32 (n,); None: as they lie
    table: np.ndarray | None = None  # float32 (n, classes): pseudo-labels joined at read time
    stored: bool = False  # pseudo-labels stand in the shards
    copies: np.ndarray | None = None  # int32 (n,): which repeat of its image a sample is
    features: Features | None = None  # what a network made of each image of the shards
    hidden: np.ndarray | None = None  # int32 (n,), -1: unknown; the truth, for the log alone: no batch has it

    def __len__(self) -> int:
        return len(self.labels)

    def places(self, numbers: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Shard and row, int64, of these samples or of all."""
        if numbers is None:
            numbers = np.arange(len(self))
        if self.order is not None:
            return self.order[0][numbers].astype(np.int64), self.order[1][numbers].astype(np.int64)
        shard = np.searchsorted(self._starts, numbers, side="right") - 1
        return shard, numbers - self._starts[shard]

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0, *(info.samples for info in self.index.shards)])

    @property
    def has_soft(self) -> bool:
        """Whether each sample has a pseudo-label."""
        return self.stored or self.table is not None

    def has(self, name: Field) -> bool:
        """Whether the samples have this field."""
        if name == "label":
            return True
        return self.has_soft if name == "soft_label" else self.features is not None

    def field(self, name: Field, numbers: np.ndarray) -> np.ndarray:
        """A field of these samples: labels int64 (n,), soft labels float32 (n, classes), features float32 (n, dim)."""
        if name == "label":
            return self.labels[numbers].astype(np.int64)
        if name == "soft_label" and self.table is not None:
            return self.table[numbers]
        shard, row = self.places(numbers)
        if name == "soft_label":
            found = [self.shards[s].soft(r) for s, r in zip(shard.tolist(), row.tolist(), strict=True)]
            return np.stack([np.asarray(x, np.float32) for x in found])
        assert self.features is not None
        return self.features.take(shard, row)

    def key(self, number: int) -> str:
        """The key of one sample; the repeats of an image have keys of their own."""
        shard, row = self.places(np.array([number]))
        key = self.shards[int(shard[0])].key(int(row[0]))
        copy = 0 if self.copies is None else int(self.copies[number])
        return f"{key}-copy{copy}" if copy else key

    def without(self, bad: Sequence[Mapping[int, str]]) -> Samples:
        """The same samples less those whose image cannot be decoded."""
        if not any(bad):
            return self
        shard, row = self.places()
        keep = np.ones(len(self), bool)
        for number, rows in enumerate(bad):
            keep &= ~((shard == number) & np.isin(row, list(rows)))
        return self.keep(keep)

    def keep(self, chosen: np.ndarray) -> Samples:
        """The same samples less those not chosen; `chosen` is bool (n,)."""
        if chosen.all():
            return self
        shard, row = self.places()
        bounds = np.concatenate([[0], np.cumsum(self.block_sizes)]).astype(int)
        sizes = [int(chosen[a:b].sum()) for a, b in pairwise(bounds)]
        return dataclasses.replace(
            self,
            order=(shard[chosen].astype(np.int32), row[chosen].astype(np.int32)),
            labels=self.labels[chosen],
            block_sizes=sizes,
            table=None if self.table is None else self.table[chosen],
            copies=None if self.copies is None else self.copies[chosen],
            hidden=None if self.hidden is None else self.hidden[chosen],
        )

    def share(self, fraction: float, seed: int) -> Samples:
        """A random `fraction` of the samples of each class, one at least; the smaller shares lie in the larger ones."""
        if fraction >= 1:
            return self
        chosen = np.zeros(len(self), bool)
        generator = np.random.default_rng([seed, 0x5BA5E])
        for label in range(len(self.index.classes)):
            members = generator.permutation(np.flatnonzero(self.labels == label))
            chosen[members[: max(round(fraction * len(members)), 1)]] = True
        return self.keep(chosen)


def open_samples(folder: Path, *, labels: bool = True, tables: Path | None = None) -> Samples:
    """All samples of a folder of shards, in order. Checks every shard against the index.

    With `labels` every sample must have one, from KEY.soft.npy or KEY.cls; raises DataError naming shard and key.
    `tables` is a folder that remembers which shards were checked, and where their samples lie (see open_shard).
    """
    return _open(read_index(folder), labels, tables)


def open_images(folder: Path, splits: Sequence[str], *, labels: bool = False, tables: Path | None = None) -> Samples:
    """The samples of several splits of one data set, one after another; absent splits are none.

    With `labels` those that are known, else none. Raises DataError if none is there, or if a key stands in two of them.
    """
    indexes = [read_index(folder / split) for split in splits if (folder / split / INDEX).is_file()]
    if not indexes:
        raise DataError(f"{folder}: has none of the splits {', '.join(splits)}")
    infos = [info._replace(file=f"{index.folder.name}/{info.file}") for index in indexes for info in index.shards]
    samples = _open(Index(folder, tuple(infos), indexes[0].classes), False, tables)
    return samples if labels else dataclasses.replace(samples, labels=np.full(len(samples), -1, np.int8))


def open_unlabeled(folder: Path, splits: Sequence[str], *, tables: Path | None = None) -> Samples:
    """As `open_images` without labels; `hidden` is the truth as far as it is labelled, or was kept when packing."""
    samples = open_images(folder, splits, labels=True, tables=tables)
    known = samples.labels.astype(np.int32)
    start = 0
    for split in splits:
        if not (folder / split / INDEX).is_file():
            continue
        count, file = read_index(folder / split).num_samples, folder / split / HIDDEN
        if file.is_file():
            found = np.load(sums.checked(file), allow_pickle=False)
            if len(found) != count:
                raise DataError(f"{file}: holds {len(found):,} labels for {count:,} images")
            known[start : start + count] = found
        start += count
    blank = np.full(len(samples), -1, np.int8)
    return dataclasses.replace(samples, labels=blank, hidden=known if (known >= 0).any() else None)


def _open(index: Index, labels: bool, tables: Path | None) -> Samples:
    shards = Shards(index, tables)
    every = np.empty(index.num_samples, np.min_scalar_type(-max(len(index.classes), 2)))
    digests = np.empty(index.num_samples, np.uint64)
    sizes = [info.samples for info in index.shards]
    stored, start = False, 0
    for number, shard in enumerate(shards):
        has_soft = shard.has_soft
        if number == 0:
            stored = bool(has_soft.any())
        found = shard.labels(len(index.classes))
        missing = np.flatnonzero(~has_soft if stored else found < 0)
        if labels and len(missing):
            raise DataError(f"{shard.path}: {shard.key(int(missing[0]))}: has no label")
        stop = start + len(shard)
        every[start:stop], digests[start:stop] = found, shard.rows["digest"]
        start = stop
    _require_unique(shards, digests)
    return Samples(index, shards, every, sizes, stored=stored and labels)


def _require_unique(shards: Shards, digests: np.ndarray) -> None:
    digests.sort()
    twice = digests[1:][digests[1:] == digests[:-1]]
    if not len(twice):
        return
    seen: set[str] = set()
    for shard in shards:
        keys = [shard.key(row) for row in np.flatnonzero(np.isin(shard.rows["digest"], twice)).tolist()]
        again = seen.intersection(keys)
        if again:
            raise DataError(f"{shard.path}: the key {min(again)!r} stands in another shard too")
        seen.update(keys)


def open_clustered(folder: Path, clusters: Path, splits: Sequence[str], *, tables: Path | None = None) -> Samples:
    """The images of these splits with their cluster as the label; images that no cluster has are left out."""
    samples = open_images(folder, splits, tables=tables)
    labels = read_clusters(clusters, splits)
    if len(labels) != len(samples):
        raise DataError(f"{clusters}: has {len(labels):,} clustered images, {folder} has {len(samples):,}")
    classes = tuple(f"cluster {number}" for number in range(int(labels.max()) + 1))
    index = dataclasses.replace(samples.index, classes=classes)
    return dataclasses.replace(samples, index=index, labels=labels).keep(labels >= 0)


def open_described(
    folder: Path, features: Path, splits: Sequence[str], *, labels: bool = False, tables: Path | None = None
) -> Samples:
    """The images of these splits with the features that a network made of them, and the labels that are known."""
    samples, found = open_images(folder, splits, labels=labels, tables=tables), Features(features, splits)
    sizes = [info.samples for info in samples.index.shards]
    if sizes != [rows for rows, _ in found.shapes]:
        raise DataError(f"{features}: its features are not those of the images of {folder}")
    chosen = np.concatenate([usable(found.file(number)) for number in range(len(found.files))])
    return dataclasses.replace(samples, features=found).keep(chosen)
