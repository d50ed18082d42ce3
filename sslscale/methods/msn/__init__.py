"""Settings of MSN."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import MultiCrop, without_patches
from sslscale.settings.model import ModelConfig


@dataclass(frozen=True, kw_only=True)
class MSN(MultiCrop):
    """Masked siamese networks (Assran et al. 2022, arXiv:2204.07141), for ViTs alone: a view of which patches are
    dropped, and small crops, are assigned to the prototypes of another, whole view. Published with AdamW, lr 1e-3 for
    batches of 1,024, decay .04 to .4, 10 small crops. Judge it by few labels, as the paper does.
    """

    name: Literal["msn"] = "msn"  # pyright: ignore[reportIncompatibleVariableOverride]
    dropped: float = 0.15  # share of the first view's patches; more for larger networks, .7 for a ViT-L
    temperature: float = 0.1
    sharpening: float = 0.25  # a target's probabilities are raised to 1 / this
    iterations: int = 3  # of Sinkhorn on the targets; 0 leaves it out
    entropy: float = 1.0  # weight of the entropy of the mean prediction
    prototypes: int = 1024
    momentum: float = 0.996  # of the teacher, where it begins; it rises to 1 in a line
    hidden: int = 2048
    projection: int = 256
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(0 <= self.dropped < 1, "dropped", "must lie in [0, 1)")
        require(self.temperature > 0, "temperature", "must be positive")
        require(0 < self.sharpening <= 1, "sharpening", "must lie in (0, 1]")
        require(self.iterations >= 0, "iterations", "must be 0 or more")
        require(self.entropy >= 0, "entropy", "must be 0 or more")
        require(self.prototypes > 1, "prototypes", "must be 2 or more")
        require(0 <= self.momentum < 1, "momentum", "must lie in [0, 1)")
        require(self.hidden > 0, "hidden", "must be positive")
        require(self.projection > 0, "projection", "must be positive")

    def unsupported_model(self, model: ModelConfig, size: int) -> str | None:
        """Patches are dropped, so there must be some, and in the places that the positions are for."""
        return without_patches(self.name, model, size)

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "it shares the prototypes out among the images of a batch"
