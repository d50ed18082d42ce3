"""Encoded image bytes -> tensors, with a limit on what an image may claim to be. Here 8-bit RGB; others: `channels`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import cast

import torch
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from sslscale.data import channels, jpeg
from sslscale.errors import DataError
from sslscale.settings.pixels import RGB, PixelConfig
from sslscale.shapes import UInt, UInt8

MAX_PIXELS = 50_000_000  # a 20 KB PNG can claim gigabytes; the header is read before anything is decoded
_WORTH_REDUCING = 1 << 20  # pixels; below, torchvision's whole decoding is as fast as PIL's at a fraction of the size


def decode(
    data: bytes | memoryview, *, max_pixels: int = MAX_PIXELS, reduce: int = 1, pixels: PixelConfig = RGB
) -> UInt[Tensor, "channels height width"]:
    """Decode a JPEG, PNG or WebP image to RGB, turned upright as its EXIF tag says, first frame of many.

    Other `pixels` than 8-bit RGB are read of PNG, TIFF and NumPy arrays too (see `channels`), as uint8 or uint16.

    The pixels of a colour lie side by side in memory, as resizing wants them. `reduce` (1, 2, 4, 8) allows a smaller
    image, down to that fraction of the sides: a large JPEG is then decoded at the smaller size, which skips most of
    the work; the result's shape tells. Raises DataError with the reason, which callers complete with shard and key.
    """
    if pixels != RGB or data[:6] == channels.NPY:
        return channels.decode(data, pixels, max_pixels=max_pixels)
    if data[:3] == b"\xff\xd8\xff":
        (width, height), components, plain = jpeg.header(data)
        _check_size((width, height), max_pixels)
        if plain and components in (1, 3):
            try:
                if reduce >= 2 and width * height >= _WORTH_REDUCING:
                    return _decode_reduced(data, width, height, reduce)
                encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
                return cast("Tensor", decode_jpeg(encoded, mode=ImageReadMode.RGB))
            except (RuntimeError, OSError) as error:
                raise DataError(f"undecodable JPEG ({str(error).split(chr(10))[0][:80]})") from None
    with _opened(data, max_pixels) as image:
        _require_faithful(image)
        if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):  # 16-bit gray: PIL would clip it to white
            image = image.point(lambda value: value / 257).convert("L")
        return _tensor(ImageOps.exif_transpose(image).convert("RGB"))


def shown(data: bytes | memoryview, pixels: PixelConfig) -> UInt8[Tensor, "3 height width"]:
    """An image to look at, in RGB whatever its channels are; raises DataError as `decode` does."""
    if pixels == RGB:
        return decode(data)
    return channels.shown(data, pixels, max_pixels=MAX_PIXELS)


def dimensions(data: bytes | memoryview, *, max_pixels: int = MAX_PIXELS, pixels: PixelConfig = RGB) -> tuple[int, int]:
    """Height and width of an encoded image after its EXIF turn, from its header; raises DataError as `decode` does."""
    if pixels != RGB or data[:6] == channels.NPY:
        size = channels.dimensions(data, pixels, max_pixels=max_pixels)
        if size is not None:
            return size
    if data[:3] == b"\xff\xd8\xff":
        (width, height), _, plain = jpeg.header(data)
        _check_size((width, height), max_pixels)
        if plain:
            return height, width
    with _opened(data, max_pixels) as image:
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        return (width, height) if turned else (height, width)


_ALPHA = (1, 2)  # of TIFF's extra samples: associated and unassociated alpha
_EXTRA = 338  # TIFF's tag of them
_ADVICE = "set image.channels and image.bits to theirs (when packing: data pack --channels, --bits)"


def _require_faithful(image: Image.Image) -> None:
    """Raise DataError for pixels that 8-bit RGB cannot show: they would come out black, clipped or cut."""
    if image.mode == "F":
        raise DataError("its pixels are floating-point numbers, which 8-bit RGB cannot show: see image.range")
    tags = getattr(image, "tag_v2", {})
    if any(kind not in _ALPHA for kind in tags.get(_EXTRA, ())):
        raise DataError(
            f"it has {tags.get(277, '?')} channels, and not all of them are colours or alpha, which 8-bit RGB cannot "
            f"show: {_ADVICE}"
        )
    if image.mode == "I":
        low, high = cast("tuple[int, int]", image.getextrema())
        if low < 0 or high > 65535:
            raise DataError(
                f"its pixels are 32-bit numbers from {low:,} to {high:,}, which 8-bit RGB cannot show: see image.range"
            )


def _unknown(data: bytes | memoryview) -> str:
    """Why an image is of no known format; of a TIFF what its header says of its pixels."""
    if bytes(data[:4]) in (b"II*\0", b"MM\0*"):
        with suppress(Exception):  # a damaged header says nothing
            tags = TiffImagePlugin.ImageFileDirectory_v2(bytes(data[:8]))
            file = io.BytesIO(data)
            file.seek(tags.next)
            tags.load(file)
            bits, count = tags.get(258, (1,)), tags.get(277, 1)
            kind = {1: "unsigned", 2: "signed", 3: "floating-point", 6: "complex"}.get(
                tags.get(339, (1,))[0], "unknown"
            )
            return f"a TIFF with {count} channels of {bits[0]} bits, {kind}, which 8-bit RGB cannot show: {_ADVICE}"
    return "undecodable image (of no known format)"


@contextmanager
def _opened(data: bytes | memoryview, max_pixels: int) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")) as image:
            _check_size(image.size, max_pixels)
            yield image
    except UnidentifiedImageError:
        raise DataError(_unknown(data)) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"undecodable image ({str(error)[:80]})") from None


def _decode_reduced(data: bytes | memoryview, width: int, height: int, reduce: int) -> UInt8[Tensor, "3 height width"]:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.draft("RGB", (-(-width // reduce), -(-height // reduce)))
        return _tensor(image.convert("RGB"))


def _tensor(rgb: Image.Image) -> UInt8[Tensor, "3 height width"]:
    flat = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8)
    return flat.reshape(rgb.height, rgb.width, 3).permute(2, 0, 1)


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise DataError(f"image of {size[0]} x {size[1]} pixels is over the limit of {max_pixels:,}")
    if size[0] * size[1] == 0:
        raise DataError("image without pixels")


def fit(image: UInt[Tensor, "channels height width"], size: int) -> UInt[Tensor, "channels size size"]:
    """Scale the short side to `size` (antialiased bilinear) and cut the centre square; a no-op if it fits."""
    height, width = image.shape[-2:]
    if (height, width) == (size, size):
        return image
    scale = size / min(height, width)
    target = (max(round(height * scale), size), max(round(width * scale), size))
    if target != (height, width):
        image = resize(image, target)
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    return image[:, top : top + size, left : left + size]


def resize(image: UInt[Tensor, "channels height width"], target: tuple[int, int]) -> UInt[Tensor, "channels h w"]:
    """Antialiased bilinear resize of one image, uint8 or uint16."""
    if image.dtype == torch.uint16:  # interpolate has no integers of 16 bits
        values = torch.nn.functional.interpolate(
            image[None].float(), size=target, mode="bilinear", antialias=True, align_corners=False
        )
        return values[0].round_().to(torch.uint16)
    interleaved = image[None].contiguous(memory_format=torch.channels_last)  # 3 times as fast as planes
    return torch.nn.functional.interpolate(
        interleaved, size=target, mode="bilinear", antialias=True, align_corners=False
    )[0]


def crop(
    image: UInt[Tensor, "channels height width"], box: tuple[float, float, float, float], size: int
) -> UInt[Tensor, "channels size size"]:
    """Cut (top, left, height, width) out of one image and scale it to size x size."""
    height, width = image.shape[-2:]
    tall, wide = min(max(round(box[2]), 1), height), min(max(round(box[3]), 1), width)
    top, left = min(round(box[0]), height - tall), min(round(box[1]), width - wide)
    return resize(image[:, top : top + tall, left : left + wide], (size, size))
