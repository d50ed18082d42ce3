"""Decoded images of a set of shards, as uint8 squares: from memory maps that were decoded once, or as they are asked.

A small set is decoded and scaled once into one array a shard, named by the shard's checksum, so that every epoch,
stage and worker of the node reads the same memory. A set that does not fit is decoded at each access.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from sslscale import jsonio
from sslscale.data import decode
from sslscale.data.shards import Shard
from sslscale.errors import DataError

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from torch import Tensor

CACHE_VERSION = 1  # of what decoding and fitting give; a cache of another version is not read
MAX_BAD_FRACTION = 0.01

log = logging.getLogger(__name__)


class Images(Protocol):
    """Gives decoded images by shard and row; `bad` says which rows cannot be decoded, and why."""

    @property
    def bad(self) -> Sequence[Mapping[int, str]]: ...

    def fetch(
        self, shard: np.ndarray, row: np.ndarray, crop: Float[Tensor, "batch 4"] | None = None
    ) -> UInt8[Tensor, "batch 3 size size"]: ...


def open_images(
    shards: Sequence[Shard],
    checksums: Sequence[str],
    size: int,
    *,
    cache: Path | None,
    cache_bytes: int,
    threads: int,
    max_bad: int = 0,
    evaluation_crop: float = 1.0,
    random_crop: bool = False,
) -> Images:
    """Choose the cache where the decoded set fits into `cache_bytes`, and decoding at each access elsewhere.

    More than `max_bad` undecodable images are a DataError.
    `evaluation_crop` is the share of the short side that the centre square keeps. With `random_crop` the whole image is
    needed at each access, so nothing is cached.
    """
    total = sum(map(len, shards)) * 3 * size * size
    if cache is not None and total <= cache_bytes and not random_crop:
        try:
            return CachedImages(shards, checksums, size, cache, threads, max_bad, evaluation_crop)
        except OSError as error:
            log.warning("the cache of decoded images cannot be written (%s): decoding each time", error)
    return DecodedImages(shards, size, threads, max_bad, evaluation_crop)


class CachedImages:
    """Memory-mapped arrays (samples, 3, size, size), built once and shared by all processes of the node."""

    def __init__(
        self,
        shards: Sequence[Shard],
        checksums: Sequence[str],
        size: int,
        folder: Path,
        threads: int,
        max_bad: int,
        evaluation_crop: float,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self._size = size
        self._arrays: list[np.ndarray] = []
        self.bad: list[Mapping[int, str]] = []
        with ThreadPoolExecutor(max(threads, 1)) as pool:
            for shard, checksum in zip(shards, checksums, strict=True):
                name = f"{checksum[:24]}-{size}-{evaluation_crop:g}-v{CACHE_VERSION}"
                array, bad = _cached(shard, folder / name, size, evaluation_crop, pool)
                self._arrays.append(array)
                self.bad.append(bad)
        _judge(shards, self.bad, max_bad)

    def fetch(
        self, shard: np.ndarray, row: np.ndarray, crop: Float[Tensor, "batch 4"] | None = None
    ) -> UInt8[Tensor, "batch 3 size size"]:
        """Copy the rows asked for into one new batch."""
        assert crop is None, "cached images are already cut to size"
        out = np.empty((len(row), 3, self._size, self._size), np.uint8)
        for number in np.unique(shard):
            mine = np.flatnonzero(shard == number)
            out[mine] = self._arrays[number][row[mine]]
        return torch.from_numpy(out)


def _cached(
    shard: Shard, stem: Path, size: int, crop: float, pool: ThreadPoolExecutor
) -> tuple[np.ndarray, dict[int, str]]:
    array_file, bad_file = stem.with_name(stem.name + ".npy"), stem.with_name(stem.name + ".bad.json")
    shape = (len(shard), 3, size, size)
    if array_file.exists() and bad_file.exists():
        try:
            array = np.load(array_file, mmap_mode="r", allow_pickle=False)
            if array.shape == shape and array.dtype == np.uint8:
                return array, {int(row): why for row, why in jsonio.read_json(bad_file).items()}
        except (ValueError, OSError, json.JSONDecodeError):
            log.warning("%s is damaged and is made again", array_file)
    temporary = array_file.with_name(f"{array_file.name}.tmp-{uuid.uuid4().hex[:8]}")
    bad: dict[int, str] = {}
    try:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        for row, result in enumerate(pool.map(lambda r: _decode(shard, r, size, crop), range(len(shard)))):
            if isinstance(result, str):
                bad[row] = result
            else:
                array[row] = result.numpy()
        array.flush()
        del array
        jsonio.write_json(bad_file, bad)
        os.replace(temporary, array_file)
    finally:
        temporary.unlink(missing_ok=True)
    return np.load(array_file, mmap_mode="r", allow_pickle=False), bad


def _decode(shard: Shard, row: int, size: int, crop: float) -> Tensor | str:
    try:
        image = decode.decode(shard.encoded(row))
    except DataError as error:
        return str(error)
    return evaluation_view(image, size, crop)


def evaluation_view(image: UInt8[Tensor, "3 height width"], size: int, crop: float) -> UInt8[Tensor, "3 size size"]:
    """The centre square that keeps `crop` of the short side, at size x size."""
    if crop == 1.0:
        return decode.fit(image, size)
    height, width = image.shape[-2:]
    side = max(round(min(height, width) * crop), 1)
    top, left = (height - side) // 2, (width - side) // 2
    return decode.fit(image[:, top : top + side, left : left + side], size)


class DecodedImages:
    """Decodes at each access, on `threads` threads; keeps nothing."""

    def __init__(self, shards: Sequence[Shard], size: int, threads: int, max_bad: int, evaluation_crop: float):
        self._shards, self._size, self._crop = shards, size, evaluation_crop
        self._max_bad = max_bad
        self._pool = ThreadPoolExecutor(max(threads, 1))
        self._total = sum(map(len, shards))
        self.bad: list[dict[int, str]] = [{} for _ in shards]

    def fetch(
        self, shard: np.ndarray, row: np.ndarray, crop: Float[Tensor, "batch 4"] | None = None
    ) -> UInt8[Tensor, "batch 3 size size"]:
        """Decode the rows asked for; `crop` gives area, ratio, x and y draws for a random resized crop.

        An image that cannot be decoded is an error, or up to `max_bad` of them a gray image that is counted in `bad`.
        """

        def one(position: int) -> Tensor:
            source = self._shards[shard[position]]
            try:
                image = decode.decode(source.encoded(int(row[position])))
            except DataError as error:
                self.bad[shard[position]][int(row[position])] = str(error)
                _judge(self._shards, self.bad, self._max_bad)
                return torch.full((3, self._size, self._size), 128, dtype=torch.uint8)
            if crop is None:
                return evaluation_view(image, self._size, self._crop)
            return _resized_crop(image, self._size, crop[position].tolist())

        return torch.stack(list(self._pool.map(one, range(len(row)))))


def _resized_crop(image: UInt8[Tensor, "3 height width"], size: int, box: list[float]) -> UInt8[Tensor, "3 size size"]:
    """Cut `area` of the image at aspect `ratio`, shrunk to fit, at (x, y) of the room left; scale to size x size."""
    area, ratio, x, y = box
    height, width = image.shape[-2:]
    cut_width = min(max(round((area * height * width * ratio) ** 0.5), 1), width)
    cut_height = min(max(round((area * height * width / ratio) ** 0.5), 1), height)
    top, left = int(y * (height - cut_height + 1)), int(x * (width - cut_width + 1))
    return decode.resize(image[:, top : top + cut_height, left : left + cut_width], (size, size))


def crop_boxes(draws: Float[Tensor, "batch 4"], scale: tuple[float, float]) -> Float[Tensor, "batch 4"]:
    """Turn uniform draws into area (in `scale`), aspect ratio (log-uniform in 3/4 to 4/3), x and y."""
    low, high = np.log(3 / 4), np.log(4 / 3)
    area = scale[0] + draws[:, 0] * (scale[1] - scale[0])
    ratio = torch.exp(low + draws[:, 1] * (high - low))
    return torch.stack([area, ratio, draws[:, 2], draws[:, 3]], 1)


def bad_allowed(on_bad_sample: str, total: int) -> int:
    """How many of `total` images may be undecodable: none, or with `skip` 1 % of them (at least one)."""
    return 0 if on_bad_sample == "error" else max(int(MAX_BAD_FRACTION * total), 1)


def _judge(shards: Sequence[Shard], bad: Sequence[Mapping[int, str]], max_bad: int) -> None:
    """Stop when more images are bad than may be, naming the first."""
    found = sum(map(len, bad))
    if found <= max_bad:
        return
    path, key, why = next(describe_bad(shards, bad))
    if max_bad == 0:
        raise DataError(f"{path}: {key}: {why}; on_bad_sample: skip leaves such images out")
    raise DataError(f"{path}: {key}: {why}; over 1 % of the images are like this ({found})")


def describe_bad(shards: Sequence[Shard], bad: Sequence[Mapping[int, str]]) -> Iterator[tuple[Path, str, str]]:
    """Name each bad image by shard, key and reason."""
    for shard, rows in zip(shards, bad, strict=True):
        for row, why in list(rows.items()):
            yield shard.path, shard.keys[row], why
