"""Decoded images on disk: one file a shard, decoded once, read by every process of a node.

A file holds the pixels of the images of a shard, then a table (offset, height, width; the offset is -1 for an image
that is not kept), then what it is, as JSON with a checksum over all before it. Files are named by the shard's own
checksum and by how the images were scaled, so a changed shard has other files. A finished file is given a time of
change that follows from its checksum: as long as it has that time nobody has written to it since, and it need not be
read to be trusted.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import time
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np

from sslscale.storage import locks
from sslscale.storage.scratch import room

VERSION = 4  # of what decoding and scaling give; files of another version are not read
PLANES, INTERLEAVED = "planes", "interleaved"
_END = struct.Struct("<Q8s")
_MAGIC = b"sslcache"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheFile:
    """One finished file. `shape` is (height, width) if all images have one size."""

    path: Path
    rows: int
    layout: str
    shape: tuple[int, int] | None
    table: int  # where the table starts


def file_name(checksum: str, spec: str) -> str:
    """The name of the file for a shard with this SHA-256."""
    return f"{checksum[:24]}-{spec}-v{VERSION}"


def write(
    path: Path,
    shapes: np.ndarray,
    kept: np.ndarray,
    layout: str,
    images: Iterable[np.ndarray],
    room: Callable[[int], bool],
    pixel_bytes: int = 3,
) -> CacheFile | None:
    """Write the images of one shard in order, of the given shapes (rows, 2), if they are `kept`, bool (rows,).

    Returns None if `room(bytes)` says that there is no room. Raises OSError (a full disk), leaving nothing behind.
    """
    lengths = pixel_bytes * shapes.prod(1) * kept
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    if not room(total):
        return None
    offsets = np.where(kept, ends - lengths, -1)
    table = np.concatenate([offsets[:, None], shapes], 1).astype("<i8").tobytes()
    temporary = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex[:8]}")
    crc = 0
    try:
        with open(temporary, "wb") as file:
            for image in images:
                data = np.ascontiguousarray(image).data.cast("B")
                crc = zlib.crc32(data, crc)
                file.write(data)
            crc = zlib.crc32(table, crc)
            one = len(shapes) > 0 and bool((shapes == shapes[0]).all()) and bool(kept.all())
            note = {
                "rows": len(shapes),
                "layout": layout,
                "shape": shapes[0].tolist() if one else None,
                "table": total,
                "crc32": crc,
            }
            text = json.dumps(note).encode()
            file.write(table + text + _END.pack(len(text), _MAGIC))
            file.flush()
            os.fsync(file.fileno())
        _stamp(temporary, crc)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return _described(path, note)


def read(path: Path, rows: int) -> CacheFile | None:
    """Open a finished file, or None if there is none or it is damaged (which is logged)."""
    try:
        stat = path.stat()
        with open(path, "rb") as file:
            file.seek(-_END.size, os.SEEK_END)
            length, magic = _END.unpack(file.read(_END.size))
            if magic != _MAGIC or length > stat.st_size:
                raise ValueError("it does not end as it should")
            file.seek(-_END.size - length, os.SEEK_END)
            end = file.tell()
            note = json.loads(file.read(length))
            if note["rows"] != rows or note["table"] + 24 * rows != end:
                raise ValueError("its length is wrong")
            if stat.st_mtime_ns != _stamp_ns(note["crc32"]):
                file.seek(0)
                crc, left = 0, end
                while left:
                    block = file.read(min(left, 1 << 22))
                    crc, left = zlib.crc32(block, crc), left - len(block)
                if crc != note["crc32"]:
                    raise ValueError("its checksum is wrong")
        _stamp(path, note["crc32"])
        return _described(path, note)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        log.warning("the cache file %s is damaged (%s): it is made again", path, error)
        return None


def _described(path: Path, note: Mapping) -> CacheFile:
    shape = tuple(note["shape"]) if note["shape"] else None
    return CacheFile(path, note["rows"], note["layout"], shape, note["table"])


def _stamp_ns(crc: int) -> int:
    return (crc % 1_000_000_000) * 1_000_000_000


def _stamp(path: Path, crc: int) -> None:
    os.utime(path, ns=(time.time_ns(), _stamp_ns(crc)))  # the time of access says what was used last


class Folder:
    """A folder of cache files with a limit on their bytes. What a process uses is not removed while it lives.

    Without a limit, half of the disk that would be free without them is theirs.
    """

    def __init__(self, path: Path, limit: int | None, names: Iterable[str]):
        path.mkdir(parents=True, exist_ok=True)
        held = 0 if limit is not None else sum(file.stat().st_size for file in path.iterdir() if file.is_file())
        self._limit = room(path, held) if limit is None else limit
        self.path, self._names = path, set(names)
        # the lock ends with this process; its text tells others which files are in use
        self._use: locks.Lock | None = None
        while self._use is None:  # another process may just be looking whether the file is in use
            self._use = locks.try_lock(path / "use" / uuid.uuid4().hex, "\n".join(sorted(self._names)))
        self._total, self._asked, self._guard = 0, 0, Lock()

    @property
    def limit(self) -> int:
        """How many bytes the files may have."""
        return self._limit

    def room(self, needed: int) -> bool:
        """Whether so many bytes more fit under the limit, after removing what was not used for longest if need be."""
        with self._guard:
            return needed <= self._limit and self._make_room(needed)

    def _make_room(self, needed: int) -> bool:
        self._asked += 1
        if self._asked % 64 != 1 and self._total + needed <= self._limit:
            self._total += needed  # other processes' files are counted now and then
            return True
        files = [f for f in self.path.iterdir() if f.is_file() and not f.name.endswith(".lock")]
        stats = {}
        for file in files:
            try:
                stats[file] = file.stat()
            except FileNotFoundError:
                continue
        total = sum(stat.st_size for stat in stats.values())
        self._total = total + needed
        if self._total <= self._limit:
            return True
        used = self._used()
        old = sorted((s.st_atime_ns, s.st_size, f) for f, s in stats.items() if f.name.partition(".tmp")[0] not in used)
        going = []
        for _, size, file in old:
            if total + needed <= self._limit:
                break
            going.append(file)
            total -= size
        if total + needed > self._limit:
            return False
        for file in going:
            log.info("the cache is full: removing %s", file)
            file.unlink(missing_ok=True)
        self._total = total + needed
        return True

    def _used(self) -> set[str]:
        names = set(self._names)
        for file in (self.path / "use").iterdir():
            lock = locks.try_lock(file) if self._use is None or file != self._use.path else None
            if lock is None:
                names.update(file.read_text("utf-8").split("\n"))
            else:
                with lock:
                    file.unlink(missing_ok=True)  # its process is gone
        return names

    def close(self) -> None:
        """Give the files free for removal."""
        if self._use is not None:
            self._use.path.unlink(missing_ok=True)
            self._use.release()
            self._use = None


class Readers:
    """Reads parts of many files with few of them open. Read, not mapped, so that the process stays as small as it is;
    the pages lie in the system's cache, once for all processes."""

    def __init__(self, most: int = 256):
        self._most, self._files, self._lock = most, OrderedDict(), Lock()

    def into(self, path: Path, offset: int, buffer: memoryview) -> None:
        """Fill the buffer; raises OSError if the file ends before."""
        with self._lock:
            file = self._files.get(path)
            if file is None:
                file = open(path, "rb", buffering=0)  # noqa: SIM115
                self._files[path] = file
                if len(self._files) > self._most:
                    self._files.popitem(last=False)  # closed when its last reader lets it go
            else:
                self._files.move_to_end(path)
        if os.preadv(file.fileno(), [buffer], offset) != len(buffer):
            raise OSError(f"{path}: ends early: cut while it was in use")
