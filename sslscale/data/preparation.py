"""How an image is decoded and scaled before it is kept or used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sslscale.data import decode
from sslscale.errors import DataError
from sslscale.settings.pixels import RGB, PixelConfig
from sslscale.shapes import UInt

_LARGE = 512  # pixels of the short side


@dataclass(frozen=True)
class Preparation:
    """With `whole` an image is kept as it is, or scaled down to `short_side`; else its centre square at `size`, or with
    `width` a line of text, `size` high and filled up to `width`.

    `crop` is the share of the short side that the centre square keeps.
    """

    size: int
    crop: float = 1.0
    whole: bool = False
    short_side: int | None = None
    width: int | None = None
    pixels: PixelConfig = RGB

    @property
    def name(self) -> str:
        """What tells files of differently prepared images apart."""
        if self.width is not None:
            return f"line-{self.size}x{self.width}"
        kind = "" if self.pixels == RGB else f"-{self.pixels.name}"
        return f"whole-{self.short_side or 'full'}{kind}" if self.whole else f"fit-{self.size}-{self.crop:g}{kind}"

    def shape_of_all(self, shapes: Iterable[tuple[int, int] | None]) -> tuple[int, int] | None:
        """Height and width of all prepared images, if they have one shape, known from the index."""
        if not self.whole:
            return self.size, self.width or self.size
        found = set(shapes)
        shape = found.pop() if len(found) == 1 else None
        return None if shape is None else self._shrunk(shape)

    def is_kept(self, shape: tuple[int, int]) -> bool:
        """Whether a prepared image of this shape is kept decoded.

        At full resolution large ones are not: they take ten times the room of their JPEG, and decoding one no larger
        than a crop needs is about as fast as reading it.
        """
        return not self.full_resolution or min(shape) < _LARGE

    @property
    def full_resolution(self) -> bool:
        """Whether crops are cut from images at their own resolution."""
        return self.whole and self.short_side is None

    def shape(self, encoded: memoryview) -> tuple[int, int]:
        """Height and width of the prepared image, from its header; (1, 1) if that cannot be read."""
        if not self.whole:
            return self.size, self.width or self.size
        try:
            return self._shrunk(decode.dimensions(encoded, pixels=self.pixels))
        except DataError:
            return 1, 1  # decoding it will say why

    def decode(self, encoded: memoryview) -> UInt[Tensor, "channels height width"]:
        """The prepared image; raises DataError if it cannot be decoded."""
        if self.width is not None:
            return line_view(decode.decode(encoded), self.size, self.width)
        target = self.short_side if self.whole else round(self.size / self.crop)
        reduce = 1
        if target is not None and self.pixels == RGB:
            reduce = power_of_two(min(decode.dimensions(encoded)) / target)
        image = decode.decode(encoded, reduce=reduce, pixels=self.pixels)
        if not self.whole:
            return evaluation_view(image, self.size, self.crop)
        height, width = image.shape[-2:]
        shape = self._shrunk((height, width))
        return image if shape == (height, width) else decode.resize(image, shape)

    def _shrunk(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Height and width when the short side is scaled down to `short_side`; never up."""
        short = min(shape)
        if self.short_side is None or short <= self.short_side:
            return shape
        height, width = (max(round(x * self.short_side / short), self.short_side) for x in shape)
        return height, width


def power_of_two(factor: float) -> int:
    """The largest of 8, 4, 2, 1 that is not above `factor`."""
    return next((k for k in (8, 4, 2) if k <= factor), 1)


def line_view(image: UInt[Tensor, "3 height width"], height: int, width: int) -> UInt[Tensor, "3 h w"]:
    """A line of text at this height, its shape kept unless it is too wide; on its right the mean of its border."""
    tall, wide = image.shape[-2:]
    own = min(max(round(wide * height / tall), 1), width)
    scaled = image if (tall, wide) == (height, own) else decode.resize(image, (height, own))
    if own == width:
        return scaled
    border = torch.cat([scaled[:, 0], scaled[:, -1], scaled[:, :, 0], scaled[:, :, -1]], 1)
    filled = border.float().mean(1).round().to(torch.uint8)[:, None, None].expand(3, height, width).clone()
    filled[:, :, :own] = scaled
    return filled


def evaluation_view(
    image: UInt[Tensor, "channels height width"], size: int, crop: float
) -> UInt[Tensor, "channels size size"]:
    """The centre square that keeps `crop` of the short side, at size x size."""
    if crop == 1.0:
        return decode.fit(image, size)
    height, width = image.shape[-2:]
    side = max(round(min(height, width) * crop), 1)
    top, left = (height - side) // 2, (width - side) // 2
    return decode.fit(image[:, top : top + side, left : left + side], size)
