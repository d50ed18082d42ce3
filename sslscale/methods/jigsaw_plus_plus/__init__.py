"""Settings of Jigsaw++."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.puzzle import Puzzle


@dataclass(frozen=True, kw_only=True)
class JigsawPlusPlus(Puzzle):
    """Jigsaw++ (Noroozi et al. 2018, arXiv:1805.00385): some tiles are of another image, which the network must tell.

    The paper replaces up to 3 tiles; the authors' code 0, 1 or 2, equally often, as here. Their 701 permutations differ
    in 3 tiles or more, these in 5 or more: with 3 replaced there is still one answer alone.
    """

    name: Literal["jigsaw_plus_plus"] = "jigsaw_plus_plus"  # pyright: ignore[reportIncompatibleVariableOverride]
    permutations: int = 701
    choice: Literal["mean", "least"] = "least"
    tile_size: float = 64 / 255
    tile: int = 1024
    hidden: int = 4096
    dropout: float = 0.5
    substitutes: int = 2
    channel_jitter: int = 2
    gray: float = 0.5
    projection: float = 0.5
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        self.check()
        require(self.substitutes > 0, "substitutes", "must be 1 or more; method.name jigsaw has none")
