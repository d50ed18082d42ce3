"""Settings of relative position prediction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import Pretext
from sslscale.settings.model import ModelConfig


@dataclass(frozen=True, kw_only=True)
class RelativePosition(Pretext):
    """Context prediction (Doersch et al. 2015, arXiv:1505.05192): which of its 8 neighbours a patch is. Sizes are
    shares of the view's side; published are patches of 96 pixels, gaps of 48 and moves by 7.

    `pairs`: every two neighbours of a 3 x 3 grid in both directions, as in the authors' code, or those of the centre.
    `colours`: against chromatic aberration, the authors' code keeps one channel at random and replaces the others by
    noise; `keep` leaves them. The authors' normalisation without scale and shift is not possible in any network.
    """

    name: Literal["relative_position"] = "relative_position"  # pyright: ignore[reportIncompatibleVariableOverride]
    patch: float = 0.25
    gap: float = 0.083
    jitter: float = 0.03
    pairs: Literal["all", "centre"] = "all"
    colours: Literal["one", "keep"] = "one"
    shrink: float = 0.33  # share of the patches that are scaled down and up again
    tile: int = 1024  # features of a patch (fc6 has 4,096)
    hidden: int = 1024  # of the two layers above a pair (4,096)
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(0 < self.patch < 1 / 3, "patch", "must be a share of the side below a third")
        require(self.gap >= 0, "gap", "must be 0 or more")
        require(0 <= self.jitter <= self.gap / 2, "jitter", "must lie between 0 and half the gap")
        require(3 * (self.patch + self.gap) <= 1, "patch", "three patches with three gaps must fit into the view")
        require(0 <= self.shrink <= 1, "shrink", "must lie between 0 and 1")
        require(min(self.tile, self.hidden) > 0, "hidden", "and tile must be positive")

    def pixels(self, size: int) -> tuple[int, int, int]:
        """Patch, gap and jitter in pixels for views of `size` pixels a side."""
        return max(round(self.patch * size), 1), round(self.gap * size), round(self.jitter * size)

    def unsupported_model(self, model: ModelConfig, size: int) -> str | None:
        """Patches must be of a size that the network takes."""
        return f"{model.name} takes whole images, not patches: take a ResNet" if model.patch is not None else None
