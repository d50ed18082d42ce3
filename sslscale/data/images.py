"""Decoded images of a set of shards: from files that were decoded once, or decoded as they are asked for.

Two ways to look at an image. `fit`: the centre square, scaled to one size (evaluation, and training without random
crops). `whole`: the image as it is, or scaled down once to a short side, from which every access cuts its own boxes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from sslscale.data import cache as files
from sslscale.data import decode
from sslscale.data.cache import CacheFile
from sslscale.data.shards import Shard, Shards
from sslscale.data.threads import pool
from sslscale.errors import DataError
from sslscale.storage import locks

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from torch import Tensor

MAX_BAD_FRACTION = 0.01
SMALL = 64  # side up to which random crops of a whole batch are faster than one after another on a CPU
_AHEAD = 64  # images of a shard that are decoded at once while its file is written

log = logging.getLogger(__name__)


class Images:
    """Gives decoded images by shard and row. `bad` says which rows cannot be decoded, and why.

    `shape` is (height, width) if all images are known to have one shape, so that `fetch` can give them as one batch.
    """

    def __init__(
        self,
        shards: Shards,
        size: int,
        *,
        cache: Path | None,
        cache_bytes: int,
        threads: int,
        max_bad: int = 0,
        evaluation_crop: float = 1.0,
        whole: bool = False,
        short_side: int | None = None,
        keep: bool = True,
    ):
        """Decode the images of all shards into `cache` (a folder), as far as `cache_bytes` reaches; without `keep` only
        what is there is read.

        `evaluation_crop` is the share of the short side that the centre square keeps. More than `max_bad` undecodable
        images are a DataError. A cache that cannot be written is gone without, with one warning.
        """
        self._shards, self._size, self._crop, self._whole = shards, size, evaluation_crop, whole
        self._short_side, self._max_bad, self._keep = short_side, max_bad, keep
        self._pool = pool("decode", max(threads, 1))
        self._readers = files.Readers()
        self.bad: list[dict[int, str]] = [{} for _ in shards.index.shards]
        self._files: list[CacheFile | None] = [None] * len(shards)
        spec = f"whole-{short_side or 'full'}" if whole else f"fit-{size}-{evaluation_crop:g}"
        if cache is not None and cache_bytes > 0:
            try:
                self._build(cache / "images", cache_bytes, spec)
            except OSError as error:
                log.warning("the cache of decoded images cannot be written (%s): decoding each time", error)
        for number, file in enumerate(self._files):
            if file is not None:
                self.bad[number] = dict(file.bad)
        _judge(shards, self.bad, max_bad)
        self.shape = self._one_shape()

    @property
    def cached(self) -> int:
        """How many of the shards are read from decoded files."""
        return sum(file is not None for file in self._files)

    def _one_shape(self) -> tuple[int, int] | None:
        if not self._whole:
            return self._size, self._size
        shapes = {file.shape if file is not None else None for file in self._files}
        shape = shapes.pop() if len(shapes) == 1 else None
        return shape if shape and not any(self.bad) else None

    def _build(self, folder: Path, limit: int, spec: str) -> None:
        infos = self._shards.index.shards
        paths = [folder / files.file_name(info.sha256, spec) for info in infos]
        self._folder = files.Folder(folder, limit, [path.name for path in paths])
        waiting = []
        for number, path in enumerate(paths):
            self._files[number] = files.read(path, infos[number].samples)
            if self._files[number] is None:
                waiting.append(number)
        full = not self._keep
        for patience in (0.0, 3600.0):  # first what no other process is making, then what it has made
            busy = []
            for number in [] if full else waiting:
                path = paths[number]
                lock = _lock(path.with_name(path.name + ".lock"), patience)
                if lock is None:
                    busy.append(number)
                    continue
                try:
                    # another process may have made it while this one waited
                    found = files.read(path, infos[number].samples) or self._write(self._shards[number], path)
                finally:
                    lock.path.unlink(missing_ok=True)
                    lock.release()
                self._files[number] = found
                if found is None:
                    full = True
                    log.warning(
                        "decoded images of %d of %d shards fit into cache_bytes (%s): the others are decoded each time",
                        number, len(paths), f"{limit:,}",
                    )  # fmt: skip
                    break
            waiting = busy

    def _write(self, shard: Shard, path: Path) -> CacheFile | None:
        shapes = np.array([self._kept_shape(shard, row) for row in range(len(shard))], np.int64).reshape(-1, 2)
        small = len(shapes) > 0 and bool((shapes == shapes[0]).all()) and int(shapes[0].max()) <= SMALL
        layout = files.PLANES if small or not self._whole else files.INTERLEAVED

        def image(row: int) -> np.ndarray | str:
            try:
                pixels = self._prepared(decode.decode(shard.encoded(row), reduce=self._reduction(shard, row)))
            except DataError as error:
                return str(error)
            if pixels.shape[-2:] != tuple(shapes[row]):
                return f"its header says {shapes[row].tolist()} pixels, its content {list(pixels.shape[-2:])}"
            return (pixels if layout == files.PLANES else pixels.permute(1, 2, 0)).numpy()

        for left in path.parent.glob(f"{path.name}.tmp-*"):  # by a process that died: this one holds the file's lock
            left.unlink(missing_ok=True)
        return files.write(path, shapes, layout, _ahead(self._pool, image, len(shard)), self._folder.room)

    def _kept_shape(self, shard: Shard, row: int) -> tuple[int, int]:
        if not self._whole:
            return self._size, self._size
        try:
            return _shrunk(decode.dimensions(shard.encoded(row)), self._short_side)
        except DataError:
            return 1, 1

    def _reduction(self, shard: Shard, row: int) -> int:
        """How much smaller an image may be decoded before it is scaled to what is kept."""
        target = self._short_side if self._whole else round(self._size / self._crop)
        if target is None:
            return 1
        return _power(min(decode.dimensions(shard.encoded(row))) / target)

    def _prepared(self, image: UInt8[Tensor, "3 height width"]) -> UInt8[Tensor, "3 h w"]:
        if not self._whole:
            return evaluation_view(image, self._size, self._crop)
        height, width = image.shape[-2:]
        target = _shrunk((height, width), self._short_side)
        return image if target == (height, width) else decode.resize(image, target)

    # --- reading ----------------------------------------------------------------------------------------------

    def fetch(self, shard: np.ndarray, row: np.ndarray, *, pin: bool = False) -> UInt8[Tensor, "batch 3 h w"]:
        """The images asked for as one batch, if they have one `shape`; in memory that a GPU reads fast with `pin`."""
        assert self.shape is not None, "images of several shapes are read by crops"
        height, width = self.shape
        planes = all(file is None or file.layout == files.PLANES for file in self._files)
        shape = (3, height, width) if planes else (height, width, 3)
        out = torch.empty((len(row), *shape), dtype=torch.uint8, pin_memory=pin)
        flat, length = out.numpy().data.cast("B"), 3 * height * width
        missing = []
        for position, (s, r) in enumerate(zip(shard.tolist(), row.tolist(), strict=True)):
            file = self._files[s]
            if file is None:
                missing.append(position)
            else:
                self._readers.into(file.path, r * length, flat[position * length : (position + 1) * length])
        if missing:
            found = self._pool.map(lambda p: self._decoded(int(shard[p]), int(row[p])), missing)
            for position, image in zip(missing, found, strict=True):
                out[position] = image if planes else image.permute(1, 2, 0)
        return out if planes else out.permute(0, 3, 1, 2)

    def sizes(self, shard: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Height and width of the images asked for, as they are kept, int64 (len(row), 2)."""
        if self.shape is not None:
            return np.tile(np.array(self.shape), (len(row), 1))
        return np.array([self._place(s, r)[1:] for s, r in zip(shard.tolist(), row.tolist(), strict=True)], np.int64)

    def crops(
        self,
        shard: np.ndarray,
        row: np.ndarray,
        boxes: Sequence[Float[Tensor, "batch 4"]],
        sizes: Sequence[int],
        *,
        pin: bool = False,
    ) -> list[UInt8[Tensor, "batch 3 size size"]]:
        """For each view, the images' own boxes (top, left, height, width) scaled to the view's size.

        An image is read or decoded once for all views, and no larger than the boxes need.
        """
        result = [torch.empty(len(row), 3, size, size, dtype=torch.uint8, pin_memory=pin) for size in sizes]
        lists = [box.tolist() for box in boxes]

        def one(position: int) -> None:
            mine = [box[position] for box in lists]
            finest = min(min(box[2:]) / size for box, size in zip(mine, sizes, strict=True))
            s, r = int(shard[position]), int(row[position])
            image, scale = self._image(s, r, _power(finest))
            for out, box, size in zip(result, mine, sizes, strict=True):
                top, left, height, width = (x / scale for x in box)
                out[position] = decode.crop(image, (top, left, height, width), size)

        list(self._pool.map(one, range(len(row))))
        return result

    def _place(self, shard: int, row: int) -> tuple[int, int, int]:
        """Offset in its file (0 if it has none), height and width of one image."""
        file = self._files[shard]
        if file is not None:
            buffer = bytearray(24)
            self._readers.into(file.path, file.table + 24 * row, memoryview(buffer))
            offset, height, width = np.frombuffer(buffer, "<i8").tolist()
            return offset, height, width
        try:
            return 0, *_shrunk(decode.dimensions(self._shards[shard].encoded(row)), self._short_side)
        except DataError:
            return 0, 1, 1  # decoding it will say why

    def _image(self, shard: int, row: int, reduce: int) -> tuple[UInt8[Tensor, "3 height width"], float]:
        """One image, and how many times smaller it is than `sizes` says."""
        file = self._files[shard]
        if file is None:
            image = self._decoded(shard, row, reduce)
            return image, max(self._place(shard, row)[1] / image.shape[-2], 1.0) if reduce > 1 else 1.0
        offset, height, width = self._place(shard, row)
        buffer = torch.empty(3 * height * width, dtype=torch.uint8)
        self._readers.into(file.path, offset, buffer.numpy().data)
        if file.layout == files.PLANES:
            return buffer.view(3, height, width), 1.0
        return buffer.view(height, width, 3).permute(2, 0, 1), 1.0

    def _decoded(self, shard: int, row: int, reduce: int = 1) -> UInt8[Tensor, "3 height width"]:
        source = self._shards[shard]
        try:
            if self._short_side is not None or not self._whole:
                return self._prepared(decode.decode(source.encoded(row), reduce=self._reduction(source, row)))
            return decode.decode(source.encoded(row), reduce=reduce)
        except DataError as error:
            self.bad[shard][row] = str(error)
            _judge(self._shards, self.bad, self._max_bad)
            side = self._size
            return torch.full((3, side, side), 128, dtype=torch.uint8)


def _shrunk(shape: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """Height and width when the short side is scaled down to `short_side`; never up."""
    short = min(shape)
    if short_side is None or short <= short_side:
        return shape
    height, width = (max(round(x * short_side / short), short_side) for x in shape)
    return height, width


def _power(factor: float) -> int:
    """The largest of 8, 4, 2, 1 that is not above `factor`."""
    return next((k for k in (8, 4, 2) if k <= factor), 1)


def _lock(path: Path, wait_s: float) -> locks.Lock | None:
    return locks.held(path, wait_s=wait_s) if wait_s else locks.try_lock(path)


def _ahead(workers: ThreadPoolExecutor, function, count: int) -> Iterator:
    """Results of function(0), function(1), ... in order, with few of them waiting in memory."""
    for start in range(0, count, _AHEAD):
        yield from workers.map(function, range(start, min(start + _AHEAD, count)))


def evaluation_view(image: UInt8[Tensor, "3 height width"], size: int, crop: float) -> UInt8[Tensor, "3 size size"]:
    """The centre square that keeps `crop` of the short side, at size x size."""
    if crop == 1.0:
        return decode.fit(image, size)
    height, width = image.shape[-2:]
    side = max(round(min(height, width) * crop), 1)
    top, left = (height - side) // 2, (width - side) // 2
    return decode.fit(image[:, top : top + side, left : left + side], size)


def bad_allowed(on_bad_sample: str, total: int) -> int:
    """How many of `total` images may be undecodable: none, or with `skip` 1 % of them (at least one)."""
    return 0 if on_bad_sample == "error" else max(int(MAX_BAD_FRACTION * total), 1)


def _judge(shards: Shards, bad: Sequence[Mapping[int, str]], max_bad: int) -> None:
    """Stop when more images are bad than may be, naming the first."""
    found = sum(map(len, bad))
    if found <= max_bad:
        return
    path, key, why = next(describe_bad(shards, bad))
    if max_bad == 0:
        raise DataError(f"{path}: {key}: {why}; on_bad_sample: skip leaves such images out")
    raise DataError(f"{path}: {key}: {why}; over 1 % of the images are like this ({found})")


def describe_bad(shards: Shards, bad: Sequence[Mapping[int, str]]) -> Iterator[tuple[Path, str, str]]:
    """Name each bad image by shard, key and reason."""
    for number, rows in enumerate(bad):
        for row, why in list(rows.items()):
            yield shards[number].path, shards[number].key(row), why
