"""Write WebDataset shards: each in one rename, and the same samples as the same bytes."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from sslscale.data.index import Index, ShardInfo, write_index
from sslscale.errors import DataError, ResourceError
from sslscale.storage import jsonio

T = TypeVar("T")
KEY = re.compile(r"[A-Za-z0-9_\-/]{1,200}")


class Sample(NamedTuple):
    """One encoded sample. `label` is -1 where there is none; `soft` is a pseudo-label (see SoftLabels.stored).

    `shape` is the image's height and width, where they are known.
    """

    key: str
    image: bytes | memoryview
    extension: str
    label: int = -1
    soft: np.ndarray | None = None
    shape: tuple[int, int] | None = None
    caption: bytes | None = None
    sound: bytes | None = None
    objects: bytes | None = None


def write_shard(path: Path, samples: Iterable[Sample]) -> ShardInfo:
    """Write one shard atomically and deterministically: the same samples make the same bytes."""
    from webdataset.writer import TarWriter

    buffer = io.BytesIO()
    # no time and no owner, so that equal samples make equal shards; GNU's format takes names of any length
    options: dict[str, Any] = {"user": "", "group": "", "mode": 0o644, "mtime": 0, "format": "GNU_FORMAT"}
    writer, count = TarWriter(buffer, encoder=False, **options), 0
    shapes = set()
    for sample in samples:
        if not KEY.fullmatch(sample.key) or ".." in sample.key or sample.key.startswith("/"):
            raise DataError(f"{path.name}: {sample.key!r} is not a usable key (letters, digits, _, - and / only)")
        writer.write({"__key__": sample.key, **_members(sample)})
        count += 1
        shapes.add(sample.shape)
    writer.close()
    data = buffer.getvalue()
    try:
        jsonio.write_bytes(path, data)
    except OSError as error:
        raise ResourceError(f"{path}: cannot write {len(data):,} bytes: {error.strerror}") from error
    shape = shapes.pop() if len(shapes) == 1 else None
    return ShardInfo(path.name, count, len(data), hashlib.sha256(data).hexdigest(), shape)


def write_shards(folder: Path, name: str, samples: Iterable[Sample], classes: Iterable[str], shard_size: int) -> Index:
    """Write samples into NAME-%06d.tar of `shard_size` samples each, and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[ShardInfo] = []
    labels: list[int] = []
    seen: set[str] = set()
    soft: set[bool] = set()
    for batch in batched(samples, shard_size):
        for sample in batch:
            if sample.key in seen:
                raise DataError(f"{folder.name}: the key {sample.key!r} comes twice")
            seen.add(sample.key)
            labels.append(sample.label)
            soft.add(sample.soft is not None)
        shards.append(write_shard(folder / f"{name}-{len(shards):06d}.tar", batch))
    if len(soft) > 1:
        raise DataError(f"{folder.name}: some samples have pseudo-labels and others do not")
    return write_index(folder, shards, classes, np.array(labels, np.int64), soft=soft == {True})


def batched(samples: Iterable[T], size: int) -> Iterator[list[T]]:
    """The samples in lists of `size`; the last one may be shorter."""
    every = iter(samples)
    while batch := list(islice(every, size)):
        yield batch


def _members(sample: Sample) -> dict[str, bytes | memoryview]:
    """The files of one sample by their extension."""
    members: dict[str, bytes | memoryview] = {sample.extension: sample.image}
    if sample.label >= 0:
        members["cls"] = str(sample.label).encode()
    if sample.caption is not None:
        members["txt"] = sample.caption
    if sample.sound is not None:
        members["wav"] = sample.sound
    if sample.objects is not None:
        members["objects.json"] = sample.objects
    if sample.soft is not None:
        array = io.BytesIO()
        np.save(array, sample.soft, allow_pickle=False)
        members["soft.npy"] = array.getvalue()
    return members
