"""One shard: the tar file of a WebDataset, and where the members of its samples lie.

A sample is KEY.jpg (png, webp, tif, npy), KEY.cls (its label, ASCII) if labeled, and KEY.soft.npy (see
data/soft_labels.py) if pseudo-labeled. Plain `webdataset` opens the same files.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sslscale.data import tar
from sslscale.data.write import KEY, Sample
from sslscale.errors import DataError

IMAGE_TYPES = ("jpg", "jpeg", "png", "webp", "tif", "tiff", "npy")
PLAIN = IMAGE_TYPES[:4]  # the others are images only where a sample has none of these, and no other part in their name
ROW_FIELDS = ("key", "digest", "type", "label", "offset", "size")
_IMAGE, _LABEL, _SOFT = range(3)
_OTHERS = {"cls": _LABEL, "soft.npy": _SOFT}


@dataclass(frozen=True)
class Shard:
    """One open shard: its file, or its bytes in memory, and one row a sample that says where its members lie.

    The file is read, not mapped: its pages are the system's, not this process's, and a shard that is cut while it is in
    use is an error, not the end of the process.

    `rows` has the fields key, digest (64 bits of the key's hash), type (number in IMAGE_TYPES), label (-1 for none, -2
    for one that is not a number) and offset and size of the image, the label and the pseudo-label (size 0 for none).
    """

    path: Path
    data: memoryview | io.FileIO
    rows: np.ndarray
    ignored: Mapping[str, int]  # members of other types, which are never decoded
    prefix: str = ""  # of every key

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def keys(self) -> list[str]:
        """The keys of all samples, in order."""
        return [self.prefix + key.decode("utf-8", "replace") for key in self.rows["key"].tolist()]

    def key(self, row: int) -> str:
        """The key of one sample."""
        return self.prefix + bytes(self.rows["key"][row]).decode("utf-8", "replace")

    def _member(self, row: int, kind: int) -> memoryview:
        start, size = int(self.rows["offset"][row, kind]), int(self.rows["size"][row, kind])
        if isinstance(self.data, memoryview):
            return self.data[start : start + size]
        found = os.pread(self.data.fileno(), size, start)
        if len(found) != size:
            raise DataError(f"{self.path}: ends at byte {start + len(found):,}: cut while it was in use")
        return memoryview(found)

    def extension(self, row: int) -> str:
        """The type of one image."""
        return IMAGE_TYPES[self.rows["type"][row]]

    def encoded(self, row: int) -> memoryview:
        """The bytes of one encoded image."""
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

    def soft(self, row: int) -> np.ndarray:
        """The pseudo-label of one sample, as it is stored (see data/soft_labels.py)."""
        return np.load(io.BytesIO(bytes(self._member(row, _SOFT))), allow_pickle=False)

    def sample(self, row: int) -> Sample:
        """One encoded sample without its labels."""
        return Sample(self.key(row), self.encoded(row), self.extension(row))


def members_named(shard: Shard, extension: str) -> tuple[dict[str, tar.Member], memoryview]:
    """Where the members with this extension lie in a shard's file, by the keys of their samples; and the file."""
    _, data = map_file(shard.path)
    found = {}
    for member in tar.members(data, str(shard.path)):
        key, own = tar.split_name(member.name)
        if own == extension:
            found[shard.prefix + key] = member
    return found, data


def map_file(path: Path) -> tuple[os.stat_result, memoryview]:
    """A file's state and a memory map of its bytes; raises DataError if it cannot be opened."""
    try:
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if stat.st_size else memoryview(b"")
    except OSError as error:
        raise DataError(f"{path}: cannot be opened: {error.strerror}") from None
    return stat, data


def scan(path: Path, data: memoryview, *, lenient: bool = False) -> Shard:
    """Find the samples of a shard; raises DataError for a damaged tar, a bad key or a key that comes twice.

    A `lenient` scan takes what others write: keys of any characters, labels that are no numbers or have no image, and
    images whose extension has other parts before it (KEY.rgb.jpg), TIFFs and arrays, if a sample has no plain one.
    """
    found: tuple[dict[str, tar.Member], ...] = ({}, {}, {})
    types: dict[str, int] = {}
    ignored: dict[str, int] = {}
    others: dict[str, tuple[tar.Member, int]] = {}  # images with a longer extension
    for member in tar.members(data, str(path)):
        key, extension = tar.split_name(member.name)
        if not lenient and (not KEY.fullmatch(key) or ".." in key or key.startswith("/")):
            raise DataError(f"{path}: {member.name!r} is not a usable key")
        kind = _IMAGE if extension in (PLAIN if lenient else IMAGE_TYPES) else _OTHERS.get(extension)
        if kind is None:  # nothing else is ever decoded: a pickle in a shard stays bytes
            last = extension.rpartition(".")[2]
            last = last if last in PLAIN else extension
            if lenient and last in IMAGE_TYPES and key not in others:
                others[key] = member, IMAGE_TYPES.index(last)
            else:
                ignored[extension] = ignored.get(extension, 0) + 1
            continue
        if key in found[kind]:
            raise DataError(f"{path}: the key {key!r} comes twice")
        if member.size == 0 and kind != _IMAGE and lenient:
            ignored[f"empty .{extension}"] = ignored.get(f"empty .{extension}", 0) + 1
            continue
        if member.size == 0 and kind != _IMAGE:
            raise DataError(f"{path}: {key}: an empty .{extension}")
        found[kind][key] = member
        if kind == _IMAGE:
            types[key] = IMAGE_TYPES.index(extension)
    for key, (member, kind) in others.items():
        if key in types:
            extension = tar.split_name(member.name)[1]
            ignored[extension] = ignored.get(extension, 0) + 1
        else:
            found[_IMAGE][key], types[key] = member, kind
    if others:  # back into the order of the shard
        images = dict(sorted(found[_IMAGE].items(), key=lambda item: item[1].offset))
        found = (images, *found[1:])
    orphans = (found[_LABEL].keys() | found[_SOFT].keys()) - found[_IMAGE].keys()
    if orphans and not lenient:
        raise DataError(f"{path}: {min(orphans)}: a label without an image")
    if orphans:
        ignored["label without an image"] = len(orphans)
    return Shard(path, data, _table(data, found, types), ignored)


def _table(data: memoryview, found: tuple[dict[str, tar.Member], ...], types: Mapping[str, int]) -> np.ndarray:
    """The rows of a shard's samples, in the order of their images."""
    keys = [key.encode() for key in found[_IMAGE]]
    none = tar.Member("", 0, 0)
    table = np.array([[found[k].get(key, none)[1:] for k in range(3)] for key in found[_IMAGE]], np.int64)
    table = table.reshape(-1, 3, 2)
    width = max(map(len, keys), default=1)
    formats = (f"S{width}", "<u8", "u1", "<i4", ("<i8", 3), ("<i8", 3))
    rows = np.zeros(len(keys), np.dtype(list(zip(ROW_FIELDS, formats, strict=True))))  # pyright: ignore[reportArgumentType]
    rows["key"], rows["type"] = keys, [types[key] for key in found[_IMAGE]]
    rows["offset"], rows["size"] = table[..., 0], table[..., 1]
    rows["digest"] = [key_digest(key) for key in keys]
    rows["label"] = -1
    for row in np.flatnonzero(table[:, _LABEL, 1]).tolist():
        start, size = table[row, _LABEL].tolist()
        text = bytes(data[start : start + size]).strip()
        rows["label"][row] = int(text) if text.isdigit() and len(text) < 10 else -2
    return rows


def key_digest(key: bytes) -> int:
    """64 bits that tell a key from others."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
