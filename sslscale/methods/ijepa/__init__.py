"""Settings of I-JEPA."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import SelfSupervised, without_patches
from sslscale.settings.model import ModelConfig
from sslscale.settings.streams import ViewSpec


@dataclass(frozen=True, kw_only=True)
class IJEPA(SelfSupervised):
    """I-JEPA (Assran et al. 2023, arXiv:2301.08243), for ViTs alone: features of blocks of an image are told from the
    rest of it. Published with AdamW, lr 1e-3 for batches of 2,048, decay .04 to .4, 300 epochs, 40 of warm-up, and
    random crops of .3 to 1, without flips and colours. The teacher is the result, by the mean of its patches.
    """

    name: Literal["ijepa"] = "ijepa"  # pyright: ignore[reportIncompatibleVariableOverride]
    context: tuple[float, float] = (0.85, 1.0)  # area of the context block
    target: tuple[float, float] = (0.15, 0.2)  # area of a target block
    aspect: tuple[float, float] = (0.75, 1.5)  # a target's height / width
    targets: int = 4  # blocks
    momentum: float = 0.996  # of the teacher, where it begins; it rises to 1 in a line
    width: int = 384  # of the predictor
    depth: int = 12
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        for name, (low, high) in (("context", self.context), ("target", self.target)):
            require(0 < low <= high <= 1, name, "must be two shares, low then high")
        require(0 < self.aspect[0] <= self.aspect[1], "aspect", "must be two positive numbers, low then high")
        require(self.targets > 0, "targets", "must be positive")
        require(0 <= self.momentum < 1, "momentum", "must lie in [0, 1)")
        require(self.width > 0 and self.width % 32 == 0, "width", "must be a multiple of 32")
        require(self.depth > 0, "depth", "must be positive")

    def unsupported_model(self, model: ModelConfig, size: int) -> str | None:
        """Patches are hidden, so there must be some, and in the places that the positions are for."""
        return without_patches(self.name, model, size)

    @property
    def views(self) -> tuple[ViewSpec, ...]:
        """One view."""
        return (ViewSpec("view"),)
