"""Write WebDataset shards: each in one rename, and the same samples as the same bytes."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sslscale.data.index import Index, ShardInfo, write_index
from sslscale.errors import DataError, ResourceError
from sslscale.storage import jsonio

KEY = re.compile(r"[A-Za-z0-9_\-/]{1,200}")


class Sample(NamedTuple):
    """One encoded sample. `label` is -1 where there is none; `soft` are class probabilities, float32 (classes,)."""

    key: str
    image: bytes | memoryview
    extension: str
    label: int = -1
    soft: np.ndarray | None = None


def write_shard(path: Path, samples: Iterable[Sample]) -> ShardInfo:
    """Write one shard atomically and deterministically: the same samples make the same bytes."""
    from webdataset.writer import TarWriter

    buffer = io.BytesIO()
    # no time and no owner, so that equal samples make equal shards; GNU's format takes names of any length
    options: dict[str, Any] = {"user": "", "group": "", "mode": 0o644, "mtime": 0, "format": "GNU_FORMAT"}
    writer, count = TarWriter(buffer, encoder=False, **options), 0
    for sample in samples:
        if not KEY.fullmatch(sample.key) or ".." in sample.key or sample.key.startswith("/"):
            raise DataError(f"{path.name}: {sample.key!r} is not a usable key (letters, digits, _, - and / only)")
        writer.write({"__key__": sample.key, **_members(sample)})
        count += 1
    writer.close()
    data = buffer.getvalue()
    try:
        jsonio.write_bytes(path, data)
    except OSError as error:
        raise ResourceError(f"{path}: cannot write {len(data):,} bytes: {error.strerror}") from error
    return ShardInfo(path.name, count, len(data), hashlib.sha256(data).hexdigest())


def write_shards(folder: Path, name: str, samples: Iterable[Sample], classes: Iterable[str], shard_size: int) -> Index:
    """Write samples into NAME-%06d.tar of `shard_size` samples each, and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[ShardInfo] = []
    batch: list[Sample] = []
    seen: dict[str, None] = {}
    for sample in samples:
        if sample.key in seen:
            raise DataError(f"{folder.name}: the key {sample.key!r} comes twice")
        seen[sample.key] = None
        batch.append(sample)
        if len(batch) == shard_size:
            shards.append(write_shard(folder / f"{name}-{len(shards):06d}.tar", batch))
            batch = []
    if batch:
        shards.append(write_shard(folder / f"{name}-{len(shards):06d}.tar", batch))
    return write_index(folder, shards, classes)


def _members(sample: Sample) -> dict[str, bytes | memoryview]:
    """The files of one sample by their extension."""
    members: dict[str, bytes | memoryview] = {sample.extension: sample.image}
    if sample.label >= 0:
        members["cls"] = str(sample.label).encode()
    if sample.soft is not None:
        array = io.BytesIO()
        np.save(array, sample.soft, allow_pickle=False)
        members["soft.npy"] = array.getvalue()
    return members
