"""Decoding: every common form of image gives RGB; what lies about itself is refused before it costs memory."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from sslscale.data import decode
from sslscale.data.preparation import evaluation_view
from sslscale.errors import DataError
from sslscale.settings.pixels import PixelConfig

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def smooth(height: int, width: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 3 % 256, y * 2 % 256, (x + y) % 256], -1).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "CMYK", "1", "I;16"])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_every_mode_gives_three_channels(mode: str, format: str) -> None:
    source = Image.fromarray(PIXELS)
    image = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257) if mode == "I;16" else source.convert(mode)
    try:
        data = encode(image, format)
    except OSError:
        pytest.skip(f"{format} has no {mode}")
    tensor = decode.decode(data)
    assert tensor.shape == (3, 6, 9) and tensor.dtype == torch.uint8
    if format == "PNG" and mode == "RGB":
        assert np.array_equal(tensor.permute(1, 2, 0).numpy(), PIXELS)
    if mode == "I;16" and format == "PNG":
        assert np.abs(tensor[0].numpy().astype(int) - PIXELS[..., 0]).max() <= 1


def test_jpeg_is_what_pil_decodes() -> None:
    data = encode(smooth(60, 90), "JPEG", quality=90)
    ours = decode.decode(data).permute(1, 2, 0).numpy().astype(int)
    theirs = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(ours - theirs).mean() < 0.5


def test_an_exif_turn_is_obeyed() -> None:
    image = smooth(20, 30)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(image, "JPEG", exif=exif, quality=95)
    assert decode.decode(data).shape == (3, 30, 20)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (5, 4), (c, 0, 0)) for c in (200, 10, 10)]
    data = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert decode.decode(data)[0].float().mean() == 200


def png_bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [9000, 12000, 20000, 60000])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    with pytest.raises(DataError, match=r"over the limit|undecodable"):
        decode.decode(png_bomb(side, side))


def test_a_jpeg_that_claims_too_much_is_refused() -> None:
    data = bytearray(encode(smooth(20, 30), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 60000, 60000)
    with pytest.raises(DataError, match="60000 x 60000 pixels is over the limit"):
        decode.decode(bytes(data))


def many_scans(image: Image.Image, count: int, **options: object) -> bytes:
    """A progressive JPEG whose last scan comes `count` times more: few bytes each, and as long to decode as all."""
    data = encode(image, "JPEG", progressive=True, **options)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + data[-2:]


@pytest.mark.parametrize("options", [{}, {"exif": b"Exif\0\0"}], ids=["fast decoder", "EXIF"])
def test_a_jpeg_of_very_many_scans_is_refused(options: dict[str, object]) -> None:
    """20 MB of them on 49 megapixels would take over an hour."""
    image = smooth(20, 30)
    assert decode.decode(many_scans(image, 5, **options)).shape == (3, 20, 30)
    for read in (decode.decode, decode.dimensions):
        with pytest.raises(DataError, match=r"a JPEG of 2,0[01][0-9] scans, which would take very long"):
            read(many_scans(image, 2000, **options))
    with pytest.raises(DataError, match=r"2,0[01][0-9] scans"):
        decode.decode(many_scans(image, 2000, **options), pixels=PixelConfig(channels=1))


GOOD = encode(smooth(40, 40), "JPEG")


@pytest.mark.parametrize(
    "data", [b"", b"hello", GOOD[:20], GOOD[:3], encode(smooth(40, 40), "PNG")[:60], b"\xff\xd8\xff" + b"\xff" * 40]
)
def test_non_images_are_reported(data: bytes) -> None:
    with pytest.raises(DataError):
        decode.decode(data)


def test_fit_crops_the_centre_square() -> None:
    image = torch.from_numpy(np.asarray(smooth(40, 80)).copy()).permute(2, 0, 1)
    assert decode.fit(image, 40).equal(image[:, :, 20:60])
    assert decode.fit(image, 20).shape == (3, 20, 20)
    assert evaluation_view(image, 32, 0.8).shape == (3, 32, 32)
    one = torch.zeros(3, 1, 500, dtype=torch.uint8)
    assert decode.fit(one, 8).shape == (3, 8, 8)


def tiff(array: np.ndarray, channels: int = 1, extra: int | None = None, bits: int | None = None) -> bytes:
    """A plain TIFF of one strip, for forms that PIL does not write."""
    height, width = array.shape[:2]
    kind = 3 if array.dtype.kind == "f" else 2 if array.dtype.kind == "i" else 1
    bits = bits or array.dtype.itemsize * 8
    tags: list[tuple[int, int, list[int]]] = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [bits] * channels),
        (259, 3, [1]),
        (262, 3, [2 if channels >= 3 else 1]),
        (273, 4, [0]),  # where the pixels begin, set below
        (277, 3, [channels]),
        (278, 4, [height]),
        (279, 4, [array.nbytes]),
        *([(338, 3, [extra] * (channels - 3))] if extra is not None else []),
        (339, 3, [kind] * channels),
    ]
    directory, more = b"", b""
    start = 8 + 2 + 12 * len(tags) + 4
    size = start + sum(len(v) * (2 if t == 3 else 4) for _, t, v in tags if len(v) * (2 if t == 3 else 4) > 4)
    for tag, form, values in tags:
        values = [size] if tag == 273 else values
        data = struct.pack(f"<{len(values)}{'H' if form == 3 else 'I'}", *values)
        if len(data) > 4:
            data, more = struct.pack("<I", start + len(more)), more + data
        directory += struct.pack("<HHI", tag, form, len(values)) + data.ljust(4, b"\0")
    return (
        b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + directory + b"\0" * 4 + more + array.tobytes()
    )


REFUSED = {
    "float": (lambda: encode(Image.fromarray(PIXELS[..., 0] / np.float32(255)), "TIFF"), "floating-point numbers"),
    "32 bits": (lambda: tiff(PIXELS[..., 0].astype(np.int32) * 100_000), r"32-bit numbers from \S+ to \S+"),
    "infra-red": (lambda: tiff(np.concatenate([PIXELS, PIXELS[..., :1]], 2), 4, extra=0), "4 channels, and not all"),
    "six bands": (lambda: tiff(np.concatenate([PIXELS, PIXELS], 2), 6, extra=0), "it has 6 channels, and not all"),
    "three floats": (lambda: tiff(PIXELS / np.float32(255), 3), "a TIFF with 3 channels of 32 bits, floating-point"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_rgb_cannot_show_is_named_and_refused(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        decode.decode(make())


def test_tiffs_that_rgb_can_show_are_read() -> None:
    assert np.array_equal(decode.decode(tiff(PIXELS, 3)).permute(1, 2, 0).numpy(), PIXELS)
    alpha = np.concatenate([PIXELS, np.full((6, 9, 1), 255, np.uint8)], 2)
    assert np.array_equal(decode.decode(tiff(alpha, 4, extra=2)).permute(1, 2, 0).numpy(), PIXELS)
    deep = decode.decode(tiff(PIXELS[..., 0].astype(np.uint16) * 257))
    assert np.abs(deep[0].numpy().astype(int) - PIXELS[..., 0]).max() <= 1
