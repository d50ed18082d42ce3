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
from sslscale.data.images import evaluation_view
from sslscale.errors import DataError

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


GOOD = encode(smooth(40, 40), "JPEG")


@pytest.mark.parametrize(
    "data", [b"", b"hello", GOOD[:20], GOOD[:3], encode(smooth(40, 40), "PNG")[:60], b"\xff\xd8\xff" + b"\xff" * 40]
)
def test_what_is_no_image_says_so(data: bytes) -> None:
    with pytest.raises(DataError):
        decode.decode(data)


def test_fit_keeps_the_middle_and_the_scale() -> None:
    image = torch.from_numpy(np.asarray(smooth(40, 80)).copy()).permute(2, 0, 1)
    assert decode.fit(image, 40).equal(image[:, :, 20:60])
    assert decode.fit(image, 20).shape == (3, 20, 20)
    assert evaluation_view(image, 32, 0.8).shape == (3, 32, 32)
    one = torch.zeros(3, 1, 500, dtype=torch.uint8)
    assert decode.fit(one, 8).shape == (3, 8, 8)
