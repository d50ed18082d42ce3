"""What the pixels of images are: how many channels, of how many bits, in which range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sslscale.config import require

MOST_CHANNELS = 1024  # channels: hyperspectral cameras have some hundred


@dataclass(frozen=True, kw_only=True)
class PixelConfig:
    """`channels` of `bits` each. `range` are the values of the files that become 0 and 1; what lies outside is clipped.

    By default it is the whole range of 8-bit or 16-bit files; files with other numbers (floats, signed integers) need
    one. With 8 bits, 16-bit files are reduced to 256 levels.
    """

    channels: int = 3
    bits: Literal[8, 16] = 8
    range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        require(0 < self.channels <= MOST_CHANNELS, "channels", f"must lie between 1 and {MOST_CHANNELS:,}")
        require(self.range is None or self.range[0] < self.range[1], "range", "must be two numbers, low then high")

    @property
    def bytes(self) -> int:
        """Bytes of one decoded pixel."""
        return self.channels * self.bits // 8

    @property
    def name(self) -> str:
        """What tells files of differently decoded images apart."""
        reach = "" if self.range is None else f"-{self.range[0]:g}-{self.range[1]:g}"
        return f"{self.channels}x{self.bits}{reach}"

    def __str__(self) -> str:
        reach = "" if self.range is None else f" from {self.range[0]:g} to {self.range[1]:g}"
        return f"{self.channels} channel{'s' * (self.channels != 1)} of {self.bits} bits{reach}"


RGB = PixelConfig()  # what nearly all images are
