"""Decode the images of shards into files of pixels, one file a shard, which all processes of a node share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sslscale.data import cache as files
from sslscale.data.cache import CacheFile
from sslscale.data.preparation import Preparation
from sslscale.data.shards import Shard, Shards
from sslscale.errors import DataError
from sslscale.storage import locks

SMALL = 64  # side up to which images lie in planes, and random crops of a whole batch are faster on a CPU
_AHEAD = 64  # images of a shard that are decoded at once while its file is written
_OTHERS_S = 3600.0  # seconds to wait for a file that another process is making

log = logging.getLogger(__name__)


def open_files(
    shards: Shards, preparation: Preparation, folder: Path, limit: int, workers: ThreadPoolExecutor, *, write: bool
) -> tuple[list[CacheFile | None], files.Folder]:
    """The files of decoded images of all shards, made where they are missing; None where they do not fit into `limit`.

    With `write` off, only files that are there are opened. The folder keeps the files from being removed as long as it
    lives. Raises OSError if it cannot be written.
    """
    infos = shards.index.shards
    paths = [folder / files.file_name(info.sha256, preparation.name) for info in infos]
    space = files.Folder(folder, limit, [path.name for path in paths])
    found = [files.read(path, info.samples) for path, info in zip(paths, infos, strict=True)]
    waiting = [number for number, file in enumerate(found) if file is None] if write else []
    for wait_s in (0.0, _OTHERS_S):  # first what no other process is making, then what the others have made
        busy = []
        for number in waiting:
            path = paths[number]
            lock = _lock(path.with_name(path.name + ".lock"), wait_s)
            if lock is None:
                busy.append(number)
                continue
            try:
                # another process may have made it while this one waited
                made = files.read(path, infos[number].samples) or _write(
                    shards[number], path, preparation, workers, space
                )
            finally:
                lock.path.unlink(missing_ok=True)
                lock.release()
            if made is None:
                log.warning(
                    "decoded images of %d of %d shards fit into cache_bytes (%s): the others are decoded each time",
                    number,
                    len(paths),
                    f"{limit:,}",
                )
                return found, space
            found[number] = made
        waiting = busy
    return found, space


def _write(
    shard: Shard, path: Path, preparation: Preparation, workers: ThreadPoolExecutor, space: files.Folder
) -> CacheFile | None:
    shapes = np.array([preparation.shape(shard.encoded(row)) for row in range(len(shard))], np.int64).reshape(-1, 2)
    small = len(shapes) > 0 and bool((shapes == shapes[0]).all()) and int(shapes[0].max()) <= SMALL
    layout = files.PLANES if small or not preparation.whole else files.INTERLEAVED

    def image(row: int) -> np.ndarray | str:
        try:
            pixels = preparation.decode(shard.encoded(row))
        except DataError as error:
            return str(error)
        if pixels.shape[-2:] != tuple(shapes[row]):
            return f"its header says {shapes[row].tolist()} pixels, its content {list(pixels.shape[-2:])}"
        return (pixels if layout == files.PLANES else pixels.permute(1, 2, 0)).numpy()

    for left in path.parent.glob(f"{path.name}.tmp-*"):  # by a process that died: this one holds the file's lock
        left.unlink(missing_ok=True)
    return files.write(path, shapes, layout, _ahead(workers, image, len(shard)), space.room)


def _lock(path: Path, wait_s: float) -> locks.Lock | None:
    return locks.acquire(path, wait_s=wait_s) if wait_s else locks.try_lock(path)


def _ahead(workers: ThreadPoolExecutor, function, count: int) -> Iterator:
    """Results of function(0), function(1), ... in order, with few of them waiting in memory."""
    for start in range(0, count, _AHEAD):
        yield from workers.map(function, range(start, min(start + _AHEAD, count)))
