"""Open WebDataset shards, each checked against the index of its folder.

A folder of shards holds NAME-%06d.tar and index.json. A sample is KEY.jpg (png, webp), KEY.cls (its label, ASCII) if
labeled, and KEY.soft.npy (see data/soft_labels.py) if pseudo-labeled. Keys are unique over the whole folder. Plain
`webdataset` opens the same files. Shards that others wrote lie where they are, and their index is here.
"""

from __future__ import annotations

import hashlib
import io
import logging
import mmap
import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sslscale.data import tar
from sslscale.data.index import INDEX, Index, ShardInfo
from sslscale.data.write import KEY, Sample
from sslscale.errors import DataError
from sslscale.storage import jsonio, mirror
from sslscale.storage.scratch import Local, scratch

IMAGE_TYPES = ("jpg", "jpeg", "png", "webp")
_IMAGE, _LABEL, _SOFT = range(3)
log = logging.getLogger(__name__)
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


def open_shard(index: Index, number: int, local: Local | None = None) -> Shard:
    """Open one shard after checking its size, its SHA-256 and its number of samples against the index.

    A shard that lies in a store is fetched to this machine's disk. With a `local` folder its table is kept there under
    the checksum and the file's time of change: as long as the file is the same one, it is not read again to check it.
    Has the rows of the set alone, if that does not take all of the shard.
    """
    info, chosen = index.shards[number], index.rows(number)
    shard = _open_checked(_locate(index, info, local), info, local, lenient=bool(info.url))
    if len(shard) != (info.images or info.samples):
        raise DataError(f"{shard.path}: {len(shard)} samples, but its index says {info.images or info.samples}")
    if chosen is not None:
        shard = replace(shard, rows=shard.rows[chosen])
    return replace(shard, prefix=f"{Path(info.file).stem}/") if index.prefixed and info.url else shard


def _locate(index: Index, info: ShardInfo, local: Local | None) -> Path:
    """The path of a shard on this machine, fetched if it lies in a store."""
    path = Path(info.url) if info.url and not mirror.is_url(info.url) else index.folder / info.file
    if mirror.is_url(info.url):
        url = info.url
    elif path.exists() or (found := mirror.of(path.parent)) is None:
        return path
    else:
        url = found.url_of(path)
    return (local or Local(scratch())).fetch(url, shard_name(info.sha256), info.bytes)


def shard_name(checksum: str) -> str:
    """The name of this machine's copy of a shard."""
    return f"{checksum[:32]}.tar"


def _open_checked(path: Path, info: ShardInfo, local: Local | None, *, lenient: bool) -> Shard:
    stat, data = map_file(path)
    if len(data) != info.bytes:
        raise DataError(f"{path}: {len(data):,} bytes, but its index says {info.bytes:,}: cut or changed")
    kept = None
    if local is not None:
        kept = local.tables / f"{info.sha256[:24]}-{stat.st_ino:x}-{stat.st_ctime_ns:x}-v{_TABLE_VERSION}.npy"
        try:
            rows = np.load(kept, mmap_mode="r", allow_pickle=False)
            if rows.dtype.names == _ROW_FIELDS and len(rows) == (info.images or info.samples):
                return Shard(path, _unmapped(path), rows, {})
        except (OSError, ValueError, EOFError):
            pass  # not there, or damaged: made again
    shard = scan(path, data, lenient=lenient)
    if hashlib.sha256(data).hexdigest() != info.sha256:
        raise DataError(f"{path}: its SHA-256 is not the one in {INDEX}: changed after packing")
    if kept is not None:
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            np.save(buffer, shard.rows, allow_pickle=False)
            jsonio.write_bytes(kept, buffer.getvalue())
        except OSError as error:
            log.info("%s cannot be written (%s): the shard is checked at each start", kept, error.strerror)
    return replace(shard, data=_unmapped(path))


def _unmapped(path: Path) -> io.FileIO:
    return open(path, "rb", buffering=0)


def map_file(path: Path) -> tuple[os.stat_result, memoryview]:
    """A file's state and a memory map of its bytes; raises DataError if it cannot be opened."""
    try:
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if stat.st_size else memoryview(b"")
    except OSError as error:
        raise DataError(f"{path}: cannot be opened: {error.strerror}") from None
    return stat, data


_TABLE_VERSION = 2
_ROW_FIELDS = ("key", "digest", "type", "label", "offset", "size")


def scan(path: Path, data: memoryview, *, lenient: bool = False) -> Shard:
    """Find the samples of a shard; raises DataError for a damaged tar, a bad key or a key that comes twice.

    A `lenient` scan takes what others write: keys of any characters, labels that are no numbers or have no image, and
    images whose extension has other parts before it (KEY.rgb.jpg), if a sample has no plain one.
    """
    found: tuple[dict[str, tar.Member], ...] = ({}, {}, {})
    types: dict[str, int] = {}
    ignored: dict[str, int] = {}
    others: dict[str, tuple[tar.Member, int]] = {}  # images with a longer extension
    for member in tar.members(data, str(path)):
        key, extension = tar.split_name(member.name)
        if not lenient and (not KEY.fullmatch(key) or ".." in key or key.startswith("/")):
            raise DataError(f"{path}: {member.name!r} is not a usable key")
        kind = _IMAGE if extension in IMAGE_TYPES else _OTHERS.get(extension)
        if kind is None:  # nothing else is ever decoded: a pickle in a shard stays bytes
            last = extension.rpartition(".")[2]
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
    rows = np.zeros(len(keys), np.dtype(list(zip(_ROW_FIELDS, formats, strict=True))))  # pyright: ignore[reportArgumentType]
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


class Shards:
    """The shards of an index, opened as they are asked for; the most recent stay open, so that memory is bounded."""

    def __init__(self, index: Index, local: Local | None):
        self.index, self.local = index, local
        self._open: OrderedDict[int, Shard] = OrderedDict()
        _allow_files()
        self._lock, self._locks = threading.Lock(), [threading.Lock() for _ in range(_AT_ONCE)]

    def __len__(self) -> int:
        return len(self.index.shards)

    def __iter__(self) -> Iterator[Shard]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Shard:
        shard = self._opened(number)
        if shard is None:
            with self._locks[number % _AT_ONCE]:  # several threads open several shards, and none opens one twice
                shard = self._opened(number)
                if shard is None:
                    shard = open_shard(self.index, number, self.local)
                    with self._lock:
                        self._open[number] = shard
                        if self.local is not None and len(self._open) > _MOST_OPEN:
                            self._open.popitem(last=False)
        return shard

    def _opened(self, number: int) -> Shard | None:
        with self._lock:
            shard = self._open.get(number)
            if shard is not None:
                self._open.move_to_end(number)
        return shard


def _allow_files() -> None:
    """Let this process have as many open files as the system allows, where that is more than it has now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


_MOST_OPEN = 256  # more than two windows of shards of 1,000 images (see data/order.py)
_FILES = 1 << 14
_AT_ONCE = 64
