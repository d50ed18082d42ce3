"""Open WebDataset shards, each checked against the index of its folder.

A folder of shards holds NAME-%06d.tar and index.json. Keys are unique over the whole folder. Shards that others wrote
lie where they are, and their index is here.
"""

from __future__ import annotations

import hashlib
import io
import logging
import resource
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from sslscale.data.index import INDEX, Index, ShardInfo
from sslscale.data.shard import ROW_FIELDS, Shard, map_file, scan
from sslscale.errors import DataError
from sslscale.storage import jsonio, mirror
from sslscale.storage.scratch import Local, scratch

_TABLE_VERSION = 2
log = logging.getLogger(__name__)


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
            if rows.dtype.names == ROW_FIELDS and len(rows) == (info.images or info.samples):
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
