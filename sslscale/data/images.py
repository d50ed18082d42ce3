"""Decoded images of a set of shards: from files that were decoded once, or decoded as they are asked for.

Images are prepared in one of two ways (data/preparation.py): the centre square at one size, for evaluation and for
training without random crops; or whole, at full resolution or scaled down once, from which every access cuts its own
boxes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sslscale.data import cache as files
from sslscale.data import decode, decode_once
from sslscale.data.cache import CacheFile
from sslscale.data.preparation import Preparation, power_of_two
from sslscale.data.shards import Shards
from sslscale.data.threads import pool
from sslscale.errors import DataError
from sslscale.shapes import Float, UInt8

MAX_BAD_FRACTION = 0.01

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
        images are a DataError. If the cache cannot be written, images are decoded each time, with one warning.
        """
        self._shards, self._max_bad = shards, max_bad
        self._preparation = Preparation(size, evaluation_crop, whole, short_side)
        self._pool = pool("decode", max(threads, 1))
        self._readers = files.Readers()
        self.bad: list[dict[int, str]] = [{} for _ in shards.index.shards]
        self._files: list[CacheFile | None] = [None] * len(shards)
        if cache is not None and cache_bytes > 0:
            try:
                self._files, self._folder = decode_once.open_files(
                    shards, self._preparation, cache / "images", cache_bytes, self._pool, write=keep
                )
            except OSError as error:
                log.warning("the cache of decoded images cannot be written (%s): decoding each time", error)
        for number, file in enumerate(self._files):
            if file is not None:
                self.bad[number] = dict(file.bad)
        _require_few_bad(shards, self.bad, max_bad)
        self.shape = self._one_shape()

    @property
    def cached(self) -> int:
        """How many of the shards are read from decoded files."""
        return sum(file is not None for file in self._files)

    def _one_shape(self) -> tuple[int, int] | None:
        if not self._preparation.whole:
            return self._preparation.size, self._preparation.size
        shapes = {file.shape if file is not None else None for file in self._files}
        shape = shapes.pop() if len(shapes) == 1 else None
        return shape if shape and not any(self.bad) else None

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
            image, scale = self._image(s, r, power_of_two(finest))
            for out, box, size in zip(result, mine, sizes, strict=True):
                top, left, height, width = (x / scale for x in box)
                out[position] = decode.crop(image, (top, left, height, width), size)

        list(self._pool.map(one, range(len(row))))
        return result

    def _place(self, shard: int, row: int) -> tuple[int, int, int]:
        """Offset in its file (0 if it has none), height and width of one image."""
        file = self._files[shard]
        if file is None:
            return 0, *self._preparation.shape(self._shards[shard].encoded(row))
        buffer = bytearray(24)
        self._readers.into(file.path, file.table + 24 * row, memoryview(buffer))
        offset, height, width = np.frombuffer(buffer, "<i8").tolist()
        return offset, height, width

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
        encoded = self._shards[shard].encoded(row)
        try:
            if self._preparation.full_resolution:
                return decode.decode(encoded, reduce=reduce)
            return self._preparation.decode(encoded)
        except DataError as error:
            self.bad[shard][row] = str(error)
            _require_few_bad(self._shards, self.bad, self._max_bad)
            side = self._preparation.size
            return torch.full((3, side, side), 128, dtype=torch.uint8)


def bad_allowed(on_bad_sample: str, total: int) -> int:
    """How many of `total` images may be undecodable: none, or with `skip` 1 % of them (at least one)."""
    return 0 if on_bad_sample == "error" else max(int(MAX_BAD_FRACTION * total), 1)


def _require_few_bad(shards: Shards, bad: Sequence[Mapping[int, str]], max_bad: int) -> None:
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
