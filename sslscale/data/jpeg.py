"""What a JPEG says of itself, read without decoding it."""

from __future__ import annotations

import struct

from sslscale.errors import DataError

MAX_SCANS = 100  # encoders write about ten; a scan of 75 bytes costs as much as decoding all pixels once
_SCAN = b"\xff\xda"  # in a JPEG's data only where a scan begins: a 0xff there is followed by 0


def header(data: bytes | memoryview) -> tuple[tuple[int, int], int, bool]:
    """Size, components, and whether the fast decoder may have it: no EXIF (which may ask for a turn).

    Raises DataError if there is none, or if decoding would take out of all proportion to the image's size.
    """
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
            if marker not in (0xC0, 0xC1):  # progressive or arithmetic: only there a scan of few bytes is long work
                require_few_scans(data)
            height, width, components = struct.unpack_from(">HHB", data, position + 5)
            return (width, height), components, plain
        position += 2 + length
    raise DataError("undecodable JPEG (no frame header)")


def require_few_scans(data: bytes | memoryview, images: int = 1) -> None:
    """Raise DataError if so many JPEGs that lie in `data` have more scans than any encoder writes."""
    found = bytes(data).count(_SCAN)
    if found > MAX_SCANS * images:
        raise DataError(
            f"a JPEG of {found:,} scans, which would take very long to decode; more than {MAX_SCANS} are refused"
        )
