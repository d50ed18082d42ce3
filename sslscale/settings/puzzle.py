"""What the jigsaw tasks are set by."""

from __future__ import annotations

from typing import Literal

from sslscale.config import require
from sslscale.settings.method import Pretext
from sslscale.settings.model import ModelConfig


class Puzzle(Pretext):
    """What the two jigsaw tasks share."""

    permutations: int
    choice: Literal["mean", "least"]
    tile_size: float
    tile: int
    hidden: int
    dropout: float
    substitutes: int
    channel_jitter: int
    gray: float
    projection: float

    def check(self) -> None:
        """Raise ValueError for settings that make no puzzle."""
        require(2 <= self.permutations <= 10_000, "permutations", "must lie between 2 and 10,000")
        require(0 < self.tile_size < 1 / 3, "tile_size", "must be a share of the side below a third")
        require(self.tile > 0, "tile", "must be positive")
        require(self.hidden >= 0, "hidden", "must be 0 (no such layer) or more")
        require(0 <= self.dropout < 1, "dropout", "must lie in [0, 1)")
        require(0 <= self.substitutes < 9, "substitutes", "must lie between 0 and 8")
        require(self.channel_jitter >= 0, "channel_jitter", "must be 0 pixels or more")
        for name in ("gray", "projection"):
            require(0 <= getattr(self, name) <= 1, name, "must lie between 0 and 1")

    def unsupported_model(self, model: ModelConfig, size: int) -> str | None:
        """Tiles must be of a size that the network takes, and have room in their cells."""
        if model.patch is not None:
            return f"{model.name} takes whole images, not tiles: take a ResNet"
        tile = round(self.tile_size * size)
        room = size // 3 - tile - self.channel_jitter
        return f"tile_size: tiles of {tile} pixels have no room in a third of {size}" if room < 0 else None
