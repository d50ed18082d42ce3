"""Times, sizes and metrics as people read them."""

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


def show_clock(seconds: float) -> str:
    """Seconds as a clock shows them, such as `1:05` or `2:00:13`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def show_metric(name: str, value: float) -> str:
    """A metric with its name: shares as percentages, counts in full, such as `test accuracy 97.1 %`."""
    words = name.replace("_", " ").removesuffix(" per s")
    if name.endswith("_per_s"):
        return f"{value:,.0f} {words}/s"
    if any(share in name for share in ("accuracy", "agreement", "recall")) and 0 <= value <= 1:
        return f"{words} {100 * value:.1f} %"
    return f"{words} {value:,.0f}" if float(value).is_integer() else f"{words} {value:,.4g}"
