"""Decode the images of shards into files of pixels, one file a shard, which all processes of a node share."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from torch import Tensor

from sslscale.data import cache as files
from sslscale.data import decode
from sslscale.data.cache import CacheFile
from sslscale.data.index import Index
from sslscale.data.preparation import Preparation
from sslscale.data.shard import Shard
from sslscale.data.shards import Shards
from sslscale.errors import DataError
from sslscale.shapes import UInt
from sslscale.storage import locks

SMALL = 64  # side up to which images lie in planes, and random crops of a whole batch are faster on a CPU
_AHEAD = 64  # images of a shard that are decoded at once while its file is written
_OTHERS_S = 3600.0  # seconds to wait for a file that another process is making

log = logging.getLogger(__name__)


class DecodedFiles:
    """The files of decoded images of some shards, each found or made when it is asked for, by several threads at once.

    As long as this lives, no other process removes them. Files are made until they do not fit into `limit` bytes (None:
    by the size of the disk); the images of the other shards are decoded at each access.
    """

    def __init__(
        self, shards: Shards, preparation: Preparation, folder: Path, limit: int | None, workers: ThreadPoolExecutor
    ):
        """Raises OSError if the folder cannot be written."""
        self._shards, self._preparation, self._workers = shards, preparation, workers
        self._paths = [
            folder / files.file_name(_identity(shards.index, number), preparation.name) for number in range(len(shards))
        ]
        self.space = files.Folder(folder, limit, [path.name for path in self._paths])
        self._found: list[CacheFile | None] = [None] * len(self._paths)
        self._looked, self._full = bytearray(len(self._paths)), False

    def get(self, number: int) -> CacheFile | None:
        """The file of one shard, if it is there."""
        if not self._looked[number]:
            self._found[number] = files.read(self._paths[number], self._shards.index.shards[number].samples)
            self._looked[number] = 1
        return self._found[number]

    def make_all(self, numbers: Sequence[int]) -> None:
        """Make the files of some shards: first what no other process is making, then what the others have made."""
        busy = [number for number in numbers if not self.make(number, wait_s=0)]
        for number in busy:
            self.make(number, wait_s=_OTHERS_S)

    def make(self, number: int, *, wait_s: float) -> bool:
        """Make the file of one shard, if it is missing and fits; returns False if another process is making it.

        A disk that is full or cannot be written means decoding at each access, with one warning.
        """
        if self.get(number) is not None or self._full:
            return True
        path = self._paths[number]
        own = path.with_name(path.name + ".lock")
        try:
            lock = locks.acquire(own, wait_s=wait_s) if wait_s else locks.try_lock(own)
            if lock is None:
                return False
            try:
                # another process may have made it while this one waited
                made = files.read(path, self._shards.index.shards[number].samples) or _write(
                    self._shards[number], path, self._preparation, self._workers, self.space
                )
            finally:
                lock.path.unlink(missing_ok=True)
                lock.release()
        except OSError as error:
            self._stop("the cache of decoded images cannot be written (%s): the others are decoded each time", error)
            return True
        if made is None:
            fits, count, limit = sum(file is not None for file in self._found), len(self._paths), self.space.limit
            text = "decoded images of %d of %d shards fit into cache_bytes (%s): the others are decoded each time"
            self._stop(text, fits, count, f"{limit:,}")
        self._found[number] = made
        return True

    def _stop(self, text: str, *shown: object) -> None:
        if not self._full:
            self._full = True
            log.warning(text, *shown)

    @property
    def count(self) -> int:
        """How many files are there so far."""
        return sum(file is not None for file in self._found)


def _identity(index: Index, number: int) -> str:
    """What the images of one shard of a set are: its checksum, with that of the rows which the set takes."""
    rows, checksum = index.rows(number), index.shards[number].sha256
    return checksum if rows is None else hashlib.sha256(checksum.encode() + rows.tobytes()).hexdigest()


def _write(
    shard: Shard, path: Path, preparation: Preparation, workers: ThreadPoolExecutor, space: files.Folder
) -> CacheFile | None:
    shapes = np.array([preparation.shape(shard.encoded(row)) for row in range(len(shard))], np.int64).reshape(-1, 2)
    small = len(shapes) > 0 and bool((shapes == shapes[0]).all()) and int(shapes[0].max()) <= SMALL
    layout = files.PLANES if small or not preparation.whole else files.INTERLEAVED
    kept = np.array([preparation.is_kept((height, width)) for height, width in shapes.tolist()], bool)
    rows = np.flatnonzero(kept).tolist()

    def image(position: int) -> np.ndarray:
        row = rows[position]
        pixels = decoded(shard, row, preparation)
        if pixels.shape[-2:] != tuple(shapes[row]):
            raise DataError(
                f"{shard.path}: {shard.key(row)}: its header says {shapes[row].tolist()} pixels, its content "
                f"{list(pixels.shape[-2:])}; {REMEDY}"
            )
        return (pixels if layout == files.PLANES else pixels.permute(1, 2, 0)).numpy()

    for left in path.parent.glob(f"{path.name}.tmp-*"):  # by a process that died: this one holds the file's lock
        left.unlink(missing_ok=True)
    return files.write(
        path, shapes, kept, layout, _ahead(workers, image, len(rows)), space.room, preparation.pixels.bytes
    )


REMEDY = "index or pack the set again, with on_bad_sample: skip to leave such images out"


def decoded(
    shard: Shard, row: int, preparation: Preparation, reduce: int | None = None
) -> UInt[Tensor, "channels h w"]:
    """One prepared image, or with `reduce` one of its full resolution, that many times smaller; raises DataError.

    Images are decoded when a set is packed or indexed: one that cannot be decoded now is never passed over.
    """
    try:
        encoded = shard.encoded(row)
        if reduce is None:
            return preparation.decode(encoded)
        return decode.decode(encoded, reduce=reduce, pixels=preparation.pixels)
    except DataError as error:
        raise DataError(f"{shard.path}: {shard.key(row)}: {error}; {REMEDY}") from None


def _ahead(workers: ThreadPoolExecutor, function, count: int) -> Iterator:
    """Results of function(0), function(1), ... in order, with few of them waiting in memory."""
    for start in range(0, count, _AHEAD):
        yield from workers.map(function, range(start, min(start + _AHEAD, count)))
