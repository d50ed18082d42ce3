"""Images of any number of channels, of 8 or 16 bits: PNG, TIFF and NumPy arrays -> tensors of what a training asks for.

8-bit RGB goes another way (data/decode.py). An array (.npy) is (height, width), (channels, height, width) or (height,
width, channels); objects, which would have to be unpickled, are refused. A TIFF is its first image, or a stack of pages
with a channel each.
"""

from __future__ import annotations

import io
import logging
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode, decode_png

from sslscale.data import jpeg
from sslscale.errors import DataError
from sslscale.settings.pixels import MOST_CHANNELS, PixelConfig
from sslscale.shapes import Float, UInt, UInt8

NPY = b"\x93NUMPY"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG = b"\x89PNG\r\n\x1a\n"
_HEADER = 4096  # bytes that the header of an array may have
_JPEGS = (6, 7, 99, 33007, 34892)  # of TIFF's compressions
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL has it


def decode(data: bytes | memoryview, pixels: PixelConfig, *, max_pixels: int) -> UInt[Tensor, "channels height width"]:
    """Decode an image to `pixels`, uint8 or uint16. Raises DataError for one with other channels.

    Gray is repeated for three channels, and colours become gray for one; an alpha channel is left out unless four
    channels are asked for.
    """
    return _converted(_fitted(_native(data, pixels, max_pixels), pixels), pixels)


def dimensions(data: bytes | memoryview, pixels: PixelConfig, *, max_pixels: int) -> tuple[int, int] | None:
    """Height and width of an array or a TIFF, from its header; None of another format. Raises DataError."""
    if bytes(data[:6]) == NPY:
        shape = _array_header(data, max_pixels)[0]
        return _arranged(shape, pixels, max_pixels)[1]
    if bytes(data[:4]) in TIFF:
        return _tiff(data, pixels, max_pixels, header=True)
    return None


def facts(data: bytes | memoryview, *, max_pixels: int) -> tuple[int, np.dtype, tuple[float, float]]:
    """Channels of an image, the type of its numbers, and the lowest and highest of them; raises DataError.

    Of an array whose shape does not tell which side the channels are, the shortest side are the channels.
    """
    array = _native(data, None, max_pixels)
    return len(array), array.dtype, (float(array.min()), float(array.max()))


def as_rgb(images: Float[Tensor, "*batch channels h w"]) -> Float[Tensor, "*batch 3 h w"]:
    """Images to look at: the first three channels, or of one or two the first as gray."""
    count = images.shape[-3]
    return images[..., :3, :, :] if count >= 3 else images[..., :1, :, :].expand(*images.shape[:-3], 3, -1, -1)


def shown(data: bytes | memoryview, pixels: PixelConfig, *, max_pixels: int) -> UInt8[Tensor, "3 height width"]:
    """An image to look at, its values stretched from their 1st to their 99th percentile."""
    values = as_rgb(decode(data, pixels, max_pixels=max_pixels).float())
    low, high = np.percentile(values.numpy(), (1, 99))
    return ((values - low) * (255 / max(high - low, 1.0))).clamp(0, 255).to(torch.uint8)


def rewritten(data: bytes | memoryview, pixels: PixelConfig, target: tuple[int, int], *, max_pixels: int) -> bytes:
    """An image as an array file of `target` height and width, with the numbers that it has; raises DataError."""
    image = _fitted(_native(data, pixels, max_pixels), pixels)
    if image.shape[1:] != target:
        kind = image.dtype.newbyteorder("=")
        values = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None]
        scaled = F.interpolate(values, size=target, mode="bilinear", antialias=True, align_corners=False)[0].numpy()
        image = (scaled.round() if kind.kind in "ui" else scaled).astype(kind)
    return npy(image)


def outside(data: bytes | memoryview, pixels: PixelConfig, *, max_pixels: int) -> float:
    """The share of an image's numbers that lie outside the range, and are clipped; raises DataError."""
    if pixels.range is None:
        return 0.0
    image = _fitted(_native(data, pixels, max_pixels), pixels)
    return float(((image < pixels.range[0]) | (image > pixels.range[1])).mean())


def npy(array: np.ndarray) -> bytes:
    """Numbers as an array file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _native(data: bytes | memoryview, pixels: PixelConfig | None, max_pixels: int) -> np.ndarray:
    """The numbers that a file has, (channels, height, width)."""
    try:
        if bytes(data[:6]) == NPY:
            return _array(data, pixels, max_pixels)
        if bytes(data[:4]) in TIFF:
            return _tiff(data, pixels, max_pixels)
        return _picture(data, max_pixels)
    except (OSError, ValueError, SyntaxError, RuntimeError, Image.DecompressionBombError) as error:
        raise DataError(f"undecodable image ({str(error).split(chr(10))[0][:80]})") from None


def _array_header(data: bytes | memoryview, max_pixels: int) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether in Fortran's order, type, and where the numbers begin."""
    file = io.BytesIO(bytes(data[: _HEADER + 12]))
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"version {version}")
        shape, fortran, dtype = read(file, max_header_size=_HEADER)
    except Exception as error:  # of the parsers of Python that numpy takes
        raise DataError(f"undecodable array ({str(error).split(chr(10))[0][:80]})") from None
    if dtype.kind not in "uif" or dtype.itemsize > 8:
        raise DataError(f"an array of {str(dtype)[:40]}, which are no numbers of an image")
    return shape, fortran, dtype, file.tell()


def _array(data: bytes | memoryview, pixels: PixelConfig | None, max_pixels: int) -> np.ndarray:
    shape, fortran, dtype, start = _array_header(data, max_pixels)
    last, _ = _arranged(shape, pixels, max_pixels)
    if len(data) - start != math.prod(shape) * dtype.itemsize:
        raise DataError(f"an array of {len(data) - start:,} bytes, where {list(shape)} {dtype} have another number")
    array = np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if fortran else "C")
    return _channels_first(array, last)


def _arranged(shape: tuple[int, ...], pixels: PixelConfig | None, max_pixels: int) -> tuple[bool, tuple[int, int]]:
    """Whether the channels are the last side of an array, and its height and width."""
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise DataError(f"an array of shape {list(shape)[:6]}, which is no image: (channels, height, width)")
    if len(shape) == 2:
        return False, _within((shape[0], shape[1]), max_pixels)
    last = shape[2] <= shape[0] and shape[2] < shape[1]  # by the shortest side, if neither is what is asked for
    if pixels is not None and pixels.channels in (shape[0], shape[2]):
        last = shape[0] != pixels.channels
    height, width = shape[:2] if last else shape[1:]
    return last, _within((height, width), max_pixels)


def _within(size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    if size[0] * size[1] > max_pixels:
        raise DataError(f"image of {size[1]} x {size[0]} pixels is over the limit of {max_pixels:,}")
    return size


def _channels_first(array: np.ndarray, last: bool) -> np.ndarray:
    if array.ndim == 2:
        return array[None]
    return array.transpose(2, 0, 1) if last else array


def _tiff(data: bytes | memoryview, pixels: PixelConfig | None, max_pixels: int, *, header: bool = False) -> Any:
    """The numbers of a TIFF, or with `header` its height and width."""
    try:
        import tifffile
    except ImportError:
        raise DataError("a TIFF, for which sslscale[tiff] is needed: pip install 'sslscale[tiff]'") from None
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs each flaw of a file whose error is told below
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            # pages alone: what formats on top of TIFF say of them is not read, so that no file can name others
            first: Any = file.pages.first
            pages = [first]
            if first.ndim == 2 and (pixels is None or pixels.channels > 1) and 1 < len(file.pages) <= MOST_CHANNELS:
                pages = [file.pages[n] for n in range(len(file.pages))]
            size = _within((int(first.imagelength), int(first.imagewidth)), max_pixels)
            tag = first.tags.get("Orientation")
            turn = int(tag.value) if tag is not None else 1
            if header:
                return size[::-1] if turn >= 5 else size
            shapes = {tuple(page.shape) for page in pages}
            samples = math.prod(first.shape) // (size[0] * size[1])
            count = max(samples, len(pages))
            if len(shapes) > 1 or first.ndim > 3 or count > MOST_CHANNELS:
                raise DataError(f"a TIFF of {len(pages)} images of shape {list(first.shape)}, which are no channels")
            if size[0] * size[1] * count > max_pixels * max(4, pixels.channels if pixels else 4):
                raise DataError(f"a TIFF of {count} channels of {size[1]} x {size[0]} pixels is over the limit")
            if any(int(page.compression) in _JPEGS for page in pages):
                jpeg.require_few_scans(data, sum(len(page.dataoffsets) for page in pages))
            parts = [_channels_first(page.asarray(maxworkers=1), first.axes.endswith("S")) for page in pages]
            return _upright(parts[0] if len(parts) == 1 else np.concatenate(parts), turn)
    except DataError:
        raise
    except Exception as error:  # of a damaged file: tifffile and its codecs have errors of many kinds
        raise DataError(f"undecodable TIFF ({str(error).split(chr(10))[0][:80] or type(error).__name__})") from None


_TURNS: dict[int, tuple[bool, int]] = {  # of EXIF's orientations: whether mirrored, then quarters counter-clockwise
    2: (True, 0), 3: (False, 2), 4: (True, 2), 5: (True, 1), 6: (False, 3), 7: (True, 3), 8: (False, 1),
}  # fmt: skip


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    mirrored, quarters = _TURNS.get(orientation, (False, 0))
    return np.rot90(image[..., ::-1] if mirrored else image, quarters, (1, 2))


def _picture(data: bytes | memoryview, max_pixels: int) -> np.ndarray:
    """The numbers of a PNG, JPEG, WebP, BMP or GIF."""
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP", "BMP", "GIF")) as image:
        _within((image.height, image.width), max_pixels)
        if image.format == "JPEG":
            jpeg.require_few_scans(data)
        if bytes(data[:8]) == _PNG and data[24] == 16:  # bits: PIL reads colours of 16 as 8
            turn = image.getexif().get(274, 1)
            encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            found: Tensor = decode_png(encoded, mode=ImageReadMode.UNCHANGED)
            return _upright(found.numpy(), turn)
        mode = {"1": "L", "P": "RGBA" if "transparency" in image.info else "RGB", "CMYK": "RGB", "YCbCr": "RGB"}
        image = ImageOps.exif_transpose(image)
        array = np.asarray(image.convert(mode.get(image.mode, image.mode)))
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _fitted(image: np.ndarray, pixels: PixelConfig) -> np.ndarray:
    """The channels that are asked for."""
    found, wanted = len(image), pixels.channels
    if found == wanted:
        return image
    if (found, wanted) in ((2, 1), (4, 3)):  # the last is alpha
        return image[:wanted]
    if wanted == 3 and found in (1, 2):
        return image[:1].repeat(3, 0)
    if wanted == 1 and found in (3, 4):
        weights = np.array(_LUMA, np.float32)[:, None, None]
        gray = (image[:3] * weights).sum(0, keepdims=True, dtype=np.float32)
        return gray.round().astype(image.dtype) if image.dtype.kind in "ui" else gray.astype(image.dtype)
    raise DataError(f"it has {found} channel{'s' * (found != 1)}, not {wanted}: set image.channels to {found}")


def _converted(image: np.ndarray, pixels: PixelConfig) -> UInt[Tensor, "channels height width"]:
    """Numbers of any type as uint8 or uint16 of the range."""
    image = image.astype(image.dtype.newbyteorder("="), copy=False)
    top, wanted = (255, np.uint8) if pixels.bits == 8 else (65535, np.uint16)
    if pixels.range is None:
        if image.dtype not in (np.uint8, np.uint16):
            low, high = float(image.min()), float(image.max())
            raise DataError(
                f"its numbers are {image.dtype}, from {low:g} to {high:g}: image.range says which are black and white"
            )
        if image.dtype == wanted:
            result = image
        elif wanted == np.uint16:
            result = image.astype(np.uint16) * 257
        else:
            result = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    else:
        low, high = pixels.range
        exact = image.dtype.itemsize <= 2 or image.dtype == np.float32  # in float32
        values = image.astype(np.float32 if exact else np.float64)
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise DataError("some of its pixels are no numbers (NaN): give them a value")
        result = (np.clip((values - low) / (high - low), 0, 1) * top).round().astype(wanted)
    return torch.from_numpy(np.array(result, order="C"))  # writable, whatever it came from
