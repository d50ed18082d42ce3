"""What a stream reads: an ordered list of samples, each an image of some shard with its label or pseudo-label."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sslscale.data.captions import Captions
from sslscale.data.features import Features
from sslscale.data.index import INDEX, Index, joined, label_type, read_index
from sslscale.data.objects import FoundObjects, Objects, StoredObjects
from sslscale.data.shards import Shards
from sslscale.data.soft_labels import SoftLabels, read_stored
from sslscale.data.sound import Spectra
from sslscale.data.sources import HIDDEN
from sslscale.errors import DataError
from sslscale.settings.streams import OBJECT_FIELDS
from sslscale.storage import sums
from sslscale.storage.scratch import Local

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
    soft: SoftLabels | None = None  # pseudo-labels joined at read time
    entry: np.ndarray | None = None  # int32 (n,): the row of `soft` of each sample
    stored: bool = False  # pseudo-labels stand in the shards
    copies: np.ndarray | None = None  # int (n,): which repeat of its image a sample is
    features: Features | None = None  # what a network made of each image of the shards
    captions: Captions | None = None  # tokens of the captions
    sound: Spectra | None = None  # spectrograms of the clips
    objects: StoredObjects | FoundObjects | None = None  # annotated objects, or those that a detector found
    frames: int = 1  # a sample is so many images after one another, a clip: its place is that of the first
    hidden: np.ndarray | None = None  # int32 (n,), -1: unknown; the truth, for the log alone: no batch has it

    def __len__(self) -> int:
        return len(self.labels)

    def places(self, numbers: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Shard and row, int64, of these samples or of all."""
        if numbers is None:
            numbers = np.arange(len(self))
        if self.order is not None:
            return self.order[0][numbers].astype(np.int64), self.order[1][numbers].astype(np.int64)
        shard = np.searchsorted(self.index.starts, numbers, side="right") - 1
        return shard, numbers - self.index.starts[shard]

    def shards_of(self, blocks: np.ndarray) -> np.ndarray:
        """The shards, int64 and sorted, that the samples of these blocks lie in."""
        if self.order is None:
            return np.sort(blocks)
        ends = np.cumsum([0, *self.block_sizes])
        runs = [np.unique(self.order[0][ends[block] : ends[block + 1]]) for block in blocks.tolist()]
        return np.unique(np.concatenate(runs)).astype(np.int64)

    @property
    def has_soft(self) -> bool:
        """Whether each sample has a pseudo-label."""
        return self.stored or self.soft is not None

    def has(self, name: Field) -> bool:
        """Whether the samples have this field."""
        if name == "label":
            return True
        if name in ("text", "transcript"):
            return self.captions is not None
        if name == "sound":
            return self.sound is not None
        if name == "video":
            return self.frames > 1
        if name in OBJECT_FIELDS:
            return self.objects is not None
        return self.has_soft if name == "soft_label" else self.features is not None

    def field(self, name: Field, numbers: np.ndarray) -> np.ndarray:
        """A field of these samples: labels int64 (n,), soft labels float32 (n, classes), features float32 (n, dim),
        tokens of captions or characters of transcripts int64 (n, context), spectrograms of clips float32
        (n, mels, times), numbers of their videos int64 (n,)."""
        if name == "label":
            return self.labels[numbers].astype(np.int64)
        if name == "soft_label" and self.soft is not None:
            assert self.entry is not None
            return self.soft.take(self.entry[numbers])
        shard, row = self.places(numbers)
        if name == "soft_label":
            found = [self.shards[s].soft(r) for s, r in zip(shard.tolist(), row.tolist(), strict=True)]
            return read_stored(found, len(self.index.classes))
        if name in ("text", "transcript"):
            assert self.captions is not None
            return self.captions.take(shard, row)
        if name == "video":
            return np.array([self._video(s, r) for s, r in zip(shard.tolist(), row.tolist(), strict=True)], np.int64)
        if name == "sound":
            assert self.sound is not None
            return self.sound.take(shard, row)
        assert self.features is not None
        return self.features.take(shard, row)

    def objects_of(self, shard: int, row: int) -> Objects:
        """The objects of one image; raises DataError if it has none stored."""
        assert self.objects is not None
        return self.objects.take(shard, row)

    def key(self, number: int) -> str:
        """The key of one sample; the repeats of an image have keys of their own."""
        shard, row = self.places(np.array([number]))
        key = self.shards[int(shard[0])].key(int(row[0]))
        copy = 0 if self.copies is None else int(self.copies[number])
        return f"{key}-copy{copy}" if copy else key

    def _video(self, shard: int, row: int) -> int:
        video = self.shards[shard].key(row).rsplit("/", 2)[0]
        return int.from_bytes(hashlib.blake2b(video.encode(), digest_size=8).digest(), "big", signed=True)

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
            entry=None if self.entry is None else self.entry[chosen],
            copies=None if self.copies is None else self.copies[chosen],
            hidden=None if self.hidden is None else self.hidden[chosen],
        )

    def share(self, fraction: float, seed: int) -> Samples:
        """A random `fraction` of the samples of each class, one at least; the smaller shares lie in the larger ones."""
        if fraction >= 1:
            return self
        chosen = np.zeros(len(self), bool)
        generator = np.random.default_rng([seed, 0x5BA5E])
        for label in np.unique(self.labels):  # images with objects have no class, and are one
            members = generator.permutation(np.flatnonzero(self.labels == label))
            chosen[members[: max(round(fraction * len(members)), 1)]] = True
        return self.keep(chosen)


def open_samples(folder: Path, *, labels: bool = True, local: Local | None = None) -> Samples:
    """All samples of a folder of shards, in order. No shard is opened, unless its index was written without labels.

    With `labels` every sample must have one, a class or a pseudo-label; raises DataError naming shard and key.
    `local` is a folder that remembers which shards were checked, and where their samples lie (see open_shard).
    """
    return _open(read_index(folder), labels, local)


def open_images(folder: Path, splits: Sequence[str], *, labels: bool = False, local: Local | None = None) -> Samples:
    """The samples of several splits of one data set, one after another; absent splits are none.

    With `labels` those that are known, else none. Raises DataError if none is there, or if a key stands in two of them.
    """
    indexes = [read_index(folder / split) for split in splits if (folder / split / INDEX).is_file()]
    if not indexes:
        raise DataError(f"{folder}: has none of the splits {', '.join(splits)}")
    samples = _open(joined(folder, indexes), False, local)
    return samples if labels else dataclasses.replace(samples, labels=np.full(len(samples), -1, np.int8))


def open_unlabeled(folder: Path, splits: Sequence[str], *, local: Local | None = None) -> Samples:
    """As `open_images` without labels; `hidden` is the truth as far as it is labelled, or was kept when packing."""
    samples = open_images(folder, splits, labels=True, local=local)
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


def _open(index: Index, labels: bool, local: Local | None) -> Samples:
    shards = Shards(index, local)
    every, stored = (index.labels, index.soft) if index.has_labels else _read_all(shards)
    if labels and not stored and len(every) and every.min() < 0:
        number = int(np.flatnonzero(every < 0)[0])
        shard = int(np.searchsorted(index.starts, number, side="right")) - 1
        opened = shards[shard]
        raise DataError(f"{opened.path}: {opened.key(number - int(index.starts[shard]))}: has no label")
    sizes = [info.samples for info in index.shards]
    return Samples(index, shards, every, sizes, stored=stored and labels)


def _read_all(shards: Shards) -> tuple[np.ndarray, bool]:
    """The labels of shards whose index has none, and whether all have pseudo-labels; opens every shard."""
    index = shards.index
    every = np.empty(index.num_samples, label_type(len(index.classes)))
    digests = np.empty(index.num_samples, np.uint64)
    soft, start = True, 0
    for shard in shards:
        stop = start + len(shard)
        every[start:stop], digests[start:stop] = shard.labels(len(index.classes)), shard.rows["digest"]
        soft &= bool(shard.has_soft.all())
        start = stop
    require_unique(shards, digests)
    return every, soft and start > 0


def require_unique(shards: Shards, digests: np.ndarray) -> None:
    """Raise DataError if a key stands in two shards; `digests` are those of all keys, which this sorts."""
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
