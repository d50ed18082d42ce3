"""Decoded images of a set of shards: from files that were decoded once, or decoded as they are asked for.

Images are prepared in one of two ways (data/preparation.py): the centre square at one size, for evaluation and for
training without random crops; or whole, at full resolution or scaled down once, from which every access cuts its own
boxes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sslscale.data import cache as files
from sslscale.data import decode
from sslscale.data.cache import CacheFile
from sslscale.data.decode_once import SMALL, DecodedFiles, decoded
from sslscale.data.preparation import Preparation, power_of_two
from sslscale.data.shards import Shards
from sslscale.data.threads import pool
from sslscale.settings.pixels import RGB, PixelConfig
from sslscale.shapes import Float, UInt

log = logging.getLogger(__name__)


class Images:
    """Gives decoded images by shard and row.

    A shard's images are read from a file once `make` has decoded them into it, else each is decoded when it is asked
    for: the same pixels either way. `shape` is (height, width) if all images are known to have one shape, so that
    `fetch` can give them as one batch.
    """

    def __init__(
        self,
        shards: Shards,
        size: int,
        *,
        cache: Path | None,
        cache_bytes: int | None,
        threads: int,
        evaluation_crop: float = 1.0,
        whole: bool = False,
        short_side: int | None = None,
        width: int | None = None,
        pixels: PixelConfig = RGB,
        keep: bool = True,
    ):
        """Decoded images are kept in `cache` (a folder), as far as `cache_bytes` reaches (None: by the size of its
        disk); without `keep` only what is there is read.

        `evaluation_crop` is the share of the short side that the centre square keeps; with `width` images are lines of
        text (see ImageConfig). Images are uint8, or uint16 if `pixels` has 16 bits. If the cache cannot be written,
        images are decoded each time, with one warning.
        """
        self._shards, self._keep = shards, keep
        self._preparation = Preparation(size, evaluation_crop, whole, short_side, width, pixels)
        self._channels, self._pixel_bytes = pixels.channels, pixels.bytes
        self._dtype = torch.uint8 if pixels.bits == 8 else torch.uint16
        self._pool = pool("decode", max(threads, 1))
        self._readers = files.Readers()
        self._decoded: DecodedFiles | None = None
        if cache is not None and cache_bytes != 0:
            try:
                self._decoded = DecodedFiles(shards, self._preparation, cache / "images", cache_bytes, self._pool)
            except OSError as error:
                log.warning("the cache of decoded images cannot be written (%s): decoding each time", error)
        shape = self._preparation.shape_of_all(info.shape for info in shards.index.shards)
        self.shape = shape if shape is not None and self._preparation.is_kept(shape) else None
        self._planes = shape is not None and (not whole or max(shape) <= SMALL)

    @property
    def cached(self) -> int:
        """How many of the shards are read from decoded files so far."""
        return 0 if self._decoded is None else self._decoded.count

    def make(self, numbers: Sequence[int] | None = None) -> None:
        """Open these shards, or all, and decode their images into files, as far as there is room.

        Raises DataError for a shard that is not what its index says, or an image that cannot be decoded.
        """
        numbers = range(len(self._shards)) if numbers is None else numbers
        if self._decoded is not None and self._keep:
            self._decoded.make_all(numbers)
        for number in numbers:
            if self._file(number) is None:
                _ = self._shards[number]

    def _file(self, shard: int) -> CacheFile | None:
        return None if self._decoded is None else self._decoded.get(shard)

    def fetch(self, shard: np.ndarray, row: np.ndarray, *, pin: bool = False) -> UInt[Tensor, "batch channels h w"]:
        """The images asked for as one batch, if they have one `shape`; in memory that a GPU reads fast with `pin`."""
        assert self.shape is not None, "images of several shapes are read by crops"
        height, width = self.shape
        planes = self._planes
        shape = (self._channels, height, width) if planes else (height, width, self._channels)
        out = torch.empty((len(row), *shape), dtype=self._dtype, pin_memory=pin)
        flat, length = out.numpy().data.cast("B"), self._pixel_bytes * height * width
        missing = []
        for position, (s, r) in enumerate(zip(shard.tolist(), row.tolist(), strict=True)):
            file = self._file(s)
            if file is None:
                missing.append(position)
            else:
                self._readers.into(file.path, r * length, flat[position * length : (position + 1) * length])
        if missing:
            found = self._pool.map(lambda p: self._decode(int(shard[p]), int(row[p])), missing)
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
    ) -> list[UInt[Tensor, "batch channels size size"]]:
        """For each view, the images' own boxes (top, left, height, width) scaled to the view's size.

        An image is read or decoded once for all views, and no larger than the boxes need.
        """
        count, kind = self._channels, self._dtype
        result = [torch.empty(len(row), count, size, size, dtype=kind, pin_memory=pin) for size in sizes]
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
        file = self._file(shard)
        if file is None:
            return 0, *self._preparation.shape(self._shards[shard].encoded(row))
        buffer = bytearray(24)
        self._readers.into(file.path, file.table + 24 * row, memoryview(buffer))
        offset, height, width = np.frombuffer(buffer, "<i8").tolist()
        return offset, height, width

    def _image(self, shard: int, row: int, reduce: int) -> tuple[UInt[Tensor, "channels height width"], float]:
        """One image, and how many times smaller it is than `sizes` says."""
        file = self._file(shard)
        if file is None:
            height, width = self._place(shard, row)[1:]
            if self._preparation.is_kept((height, width)):
                reduce = 1  # as it would be read from a file
            image = self._decode(shard, row, reduce)
            return image, max(height / image.shape[-2], 1.0) if reduce > 1 else 1.0
        offset, height, width = self._place(shard, row)
        if offset < 0:
            image = self._decode(shard, row, reduce)
            return image, max(height / image.shape[-2], 1.0) if reduce > 1 else 1.0
        buffer = torch.empty(self._channels * height * width, dtype=self._dtype)
        self._readers.into(file.path, offset, buffer.numpy().data.cast("B"))
        if file.layout == files.PLANES:
            return buffer.view(self._channels, height, width), 1.0
        return buffer.view(height, width, self._channels).permute(2, 0, 1), 1.0

    def _decode(self, shard: int, row: int, reduce: int = 1) -> UInt[Tensor, "channels height width"]:
        full = self._preparation.full_resolution
        return decoded(self._shards[shard], row, self._preparation, reduce if full else None)
