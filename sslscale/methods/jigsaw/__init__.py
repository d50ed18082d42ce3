"""Settings of the jigsaw puzzle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.settings.puzzle import Puzzle


@dataclass(frozen=True, kw_only=True)
class Jigsaw(Puzzle):
    """Jigsaw puzzles (Noroozi and Favaro 2016, arXiv:1603.09246): which of a set of permutations nine tiles are in.
    Published with SGD, lr .01, batches of 256, tiles of 64 in cells of 85 pixels; do not flip.

    The permutations are far from one another, by their greatest mean Hamming distance or the greatest least one.
    """

    name: Literal["jigsaw"] = "jigsaw"  # pyright: ignore[reportIncompatibleVariableOverride]
    permutations: int = 100
    choice: Literal["mean", "least"] = "mean"
    tile_size: float = 64 / 255  # share of the view's side
    tile: int = 1024  # features of a tile (fc6)
    hidden: int = 4096  # above all nine (fc7); 0: none, as in VISSL, whose tile is 1,000
    dropout: float = 0.5
    substitutes: int = 0  # tiles of another image, at most
    channel_jitter: int = 2  # pixels by which a tile's channels are moved against each other, at most
    gray: float = 0.3  # share of the puzzles in gray
    projection: float = 0.0  # of the others in colours without the axis of chromatic aberration
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        self.check()
