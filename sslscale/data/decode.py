"""Encoded image bytes -> RGB uint8 tensors, with a limit on what an image may claim to be."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, cast

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.io import ImageReadMode, decode_jpeg

from sslscale.errors import DataError

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from torch import Tensor

MAX_PIXELS = 50_000_000  # a 20 KB PNG can claim gigabytes; the header is read before anything is decoded


def decode(data: bytes | memoryview, *, max_pixels: int = MAX_PIXELS) -> UInt8[Tensor, "3 height width"]:
    """Decode a JPEG, PNG or WebP image to RGB, turned upright as its EXIF tag says, first frame of many.

    Raises DataError with the reason, which callers complete with the shard and the key.
    """
    if data[:3] == b"\xff\xd8\xff":
        size, components, plain = _jpeg_header(bytes(data))
        _check_size(size, max_pixels)
        if plain and components in (1, 3):
            try:
                encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
                return cast("Tensor", decode_jpeg(encoded, mode=ImageReadMode.RGB))
            except RuntimeError as error:
                raise DataError(f"undecodable JPEG ({str(error).split(chr(10))[0][:80]})") from None
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")) as image:
            _check_size(image.size, max_pixels)
            if image.mode in ("I", "I;16", "I;16B", "I;16L"):  # 16-bit gray: PIL would clip it to white
                image = image.point(lambda value: value / 257).convert("L")
            upright = ImageOps.exif_transpose(image)
            rgb = upright.convert("RGB")
    except UnidentifiedImageError:
        raise DataError("undecodable image (of no known format)") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"undecodable image ({str(error)[:80]})") from None
    return (
        torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8).reshape(rgb.height, rgb.width, 3).permute(2, 0, 1)
    )


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise DataError(f"image of {size[0]} x {size[1]} pixels is over the limit of {max_pixels:,}")
    if size[0] * size[1] == 0:
        raise DataError("image without pixels")


def _jpeg_header(data: bytes) -> tuple[tuple[int, int], int, bool]:
    """Size, components, and whether the fast decoder may have it: no EXIF (which may ask for a turn)."""
    position, plain = 2, True
    while position + 9 < len(data):
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        length = struct.unpack_from(">H", data, position + 2)[0]
        if marker == 0xE1 and data[position + 4 : position + 8] == b"Exif":
            plain = False
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, components = struct.unpack_from(">HHB", data, position + 5)
            return (width, height), components, plain
        position += 2 + length
    raise DataError("undecodable JPEG (no frame header)")


def fit(image: UInt8[Tensor, "3 height width"], size: int) -> UInt8[Tensor, "3 size size"]:
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


def resize(image: UInt8[Tensor, "3 height width"], target: tuple[int, int]) -> UInt8[Tensor, "3 h w"]:
    """Antialiased bilinear resize of one uint8 image."""
    scaled = torch.nn.functional.interpolate(
        image[None].float(), size=target, mode="bilinear", antialias=True, align_corners=False
    )
    return scaled[0].round_().clamp_(0, 255).to(torch.uint8)
