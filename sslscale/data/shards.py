"""Open WebDataset shards, each checked against the index of its folder.

A folder of shards holds NAME-%06d.tar and index.json. A sample is KEY.jpg (png, webp), KEY.cls (its label, ASCII) if
labeled, and KEY.soft.npy (a distribution over the classes) if pseudo-labeled. Keys are unique over the whole folder.
Plain `webdataset` opens the same files.
"""

from __future__ import annotations

import hashlib
import io
import logging
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sslscale.data import tar
from sslscale.data.index import INDEX, Index, ShardInfo
from sslscale.data.write import KEY, Sample
from sslscale.errors import DataError
from sslscale.storage import jsonio, mirror

IMAGE_TYPES = ("jpg", "jpeg", "png", "webp")
_IMAGE, _LABEL, _SOFT = range(3)
log = logging.getLogger(__name__)
_OTHERS = {"cls": _LABEL, "soft.npy": _SOFT}


@dataclass(frozen=True)
class Shard:
    """One open shard: a memory map of its bytes, and one row a sample that says where its members lie.

    `rows` has the fields key, digest (64 bits of the key's hash), type (number in IMAGE_TYPES), label (-1 for none, -2
    for one that is not a number) and offset and size of the image, the label and the pseudo-label (size 0 for none).
    """

    path: Path
    data: memoryview
    rows: np.ndarray
    ignored: Mapping[str, int]  # members of other types, which are never decoded

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def keys(self) -> list[str]:
        """The keys of all samples, in order."""
        return [key.decode() for key in self.rows["key"].tolist()]

    def key(self, row: int) -> str:
        """The key of one sample."""
        return bytes(self.rows["key"][row]).decode()

    def _member(self, row: int, kind: int) -> memoryview:
        start = int(self.rows["offset"][row, kind])
        return self.data[start : start + int(self.rows["size"][row, kind])]

    def extension(self, row: int) -> str:
        """The type of one image."""
        return IMAGE_TYPES[self.rows["type"][row]]

    def encoded(self, row: int) -> memoryview:
        """The bytes of one encoded image, without a copy."""
        return self._member(row, _IMAGE)

    def labels(self, num_classes: int) -> np.ndarray:
        """Labels as int32 (samples,), -1 where a sample has none; raises DataError for one out of range."""
        labels = self.rows["label"]
        wrong = np.flatnonzero((labels < -1) | (labels >= num_classes))
        if len(wrong):
            text = bytes(self._member(int(wrong[0]), _LABEL)).strip().decode("ascii", "replace")
            raise DataError(
                f"{self.path}: {self.key(int(wrong[0]))}: label {text!r} is not one of the "
                f"{num_classes} classes 0 to {num_classes - 1}"
            )
        return np.array(labels)

    @property
    def has_soft(self) -> np.ndarray:
        """Which samples have a pseudo-label, bool (samples,)."""
        return self.rows["size"][:, _SOFT] > 0

    def soft(self, row: int) -> np.ndarray | None:
        """The pseudo-label of one sample, float32 (classes,), or None."""
        data = bytes(self._member(row, _SOFT))
        return np.load(io.BytesIO(data), allow_pickle=False) if data else None

    def sample(self, row: int) -> Sample:
        """One encoded sample without its labels."""
        return Sample(self.key(row), self.encoded(row), self.extension(row))


def open_shard(folder: Path, info: ShardInfo, tables: Path | None = None) -> Shard:
    """Open one shard after checking its size, its SHA-256 and its number of samples against the index.

    With a folder for `tables` the rows are kept there under the checksum and the file's time of change: as long as the
    file is the same one, it is not read again to check it.
    """
    path = folder / info.file
    if not path.exists():
        mirror.fetch(path)  # if it is in a store
    try:
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if stat.st_size else memoryview(b"")
    except OSError as error:
        raise DataError(f"{path}: cannot be opened: {error.strerror}") from None
    if len(data) != info.bytes:
        raise DataError(f"{path}: {len(data):,} bytes, but its index says {info.bytes:,}: cut or changed")
    kept = None
    if tables is not None:
        kept = tables / f"{info.sha256[:24]}-{stat.st_ino:x}-{stat.st_ctime_ns:x}-v{_TABLE_VERSION}.npy"
        try:
            rows = np.load(kept, mmap_mode="r", allow_pickle=False)
            if rows.dtype.names == _ROW_FIELDS and len(rows) == info.samples:
                return Shard(path, data, rows, {})
        except (OSError, ValueError, EOFError):
            pass  # not there, or damaged: made again
    shard = scan(path, data)
    if hashlib.sha256(data).hexdigest() != info.sha256:
        raise DataError(f"{path}: its SHA-256 is not the one in {INDEX}: changed after packing")
    if len(shard) != info.samples:
        raise DataError(f"{path}: {len(shard)} samples, but its index says {info.samples}")
    if kept is not None:
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            np.save(buffer, shard.rows, allow_pickle=False)
            jsonio.write_bytes(kept, buffer.getvalue())
        except OSError as error:
            log.info("%s cannot be written (%s): the shard is checked at each start", kept, error.strerror)
    return shard


_TABLE_VERSION = 1
_ROW_FIELDS = ("key", "digest", "type", "label", "offset", "size")


def scan(path: Path, data: memoryview) -> Shard:
    """Find the samples of a shard; raises DataError for a damaged tar, a bad key or a key that comes twice."""
    found: tuple[dict[str, tar.Member], ...] = ({}, {}, {})
    types: list[int] = []
    ignored: dict[str, int] = {}
    for member in tar.members(data, str(path)):
        folder, slash, base = member.name.rpartition("/")
        stem, _, extension = base.partition(".")
        key, extension = folder + slash + stem, extension.lower()
        if not KEY.fullmatch(key) or ".." in key or key.startswith("/"):
            raise DataError(f"{path}: {member.name!r} is not a usable key")
        kind = _IMAGE if extension in IMAGE_TYPES else _OTHERS.get(extension)
        if kind is None:  # nothing else is ever decoded: a pickle in a shard stays bytes
            ignored[extension] = ignored.get(extension, 0) + 1
            continue
        if key in found[kind]:
            raise DataError(f"{path}: the key {key!r} comes twice")
        if member.size == 0 and kind != _IMAGE:
            raise DataError(f"{path}: {key}: an empty .{extension}")
        found[kind][key] = member
        if kind == _IMAGE:
            types.append(IMAGE_TYPES.index(extension))
    orphans = (found[_LABEL].keys() | found[_SOFT].keys()) - found[_IMAGE].keys()
    if orphans:
        raise DataError(f"{path}: {min(orphans)}: a label without an image")
    keys = [key.encode() for key in found[_IMAGE]]
    none = tar.Member("", 0, 0)
    table = np.array([[found[k].get(key, none)[1:] for k in range(3)] for key in found[_IMAGE]], np.int64)
    table = table.reshape(-1, 3, 2)
    width = max(map(len, keys), default=1)
    formats = (f"S{width}", "<u8", "u1", "<i4", ("<i8", 3), ("<i8", 3))
    rows = np.zeros(len(keys), np.dtype(list(zip(_ROW_FIELDS, formats, strict=True))))  # pyright: ignore[reportArgumentType]
    rows["key"], rows["type"] = keys, types
    rows["offset"], rows["size"] = table[..., 0], table[..., 1]
    rows["digest"] = [int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") for key in keys]
    rows["label"] = -1
    for row in np.flatnonzero(table[:, _LABEL, 1]).tolist():
        start, size = table[row, _LABEL].tolist()
        text = bytes(data[start : start + size]).strip()
        rows["label"][row] = int(text) if text.isdigit() and len(text) < 10 else -2
    return Shard(path, data, rows, ignored)


class Shards:
    """The shards of an index, opened as they are asked for; the most recent stay open, so that memory is bounded."""

    def __init__(self, index: Index, tables: Path | None):
        self.index, self._tables = index, tables
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.index.shards)

    def __iter__(self) -> Iterator[Shard]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Shard:
        with self._lock:
            shard = self._open.get(number)
            if shard is None:
                shard = open_shard(self.index.folder, self.index.shards[number], self._tables)
                self._open[number] = shard
                if self._tables is not None and len(self._open) > _MOST_OPEN:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(number)
        return shard


_MOST_OPEN = 64
