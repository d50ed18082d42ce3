"""Seconds and bytes as people read them."""

from __future__ import annotations


def show_age(seconds: float) -> str:
    """Seconds in the largest unit that they fill, such as `3 h`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def show_size(count: float) -> str:
    """Bytes in powers of a thousand, such as `12 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
