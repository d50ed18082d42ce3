"""Settings of MAE."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import SelfSupervised, without_patches
from sslscale.settings.model import ModelConfig
from sslscale.settings.streams import ViewSpec


@dataclass(frozen=True, kw_only=True)
class MAE(SelfSupervised):
    """Masked autoencoder (He et al. 2022, arXiv:2111.06377), for ViTs alone: published with AdamW, lr 1.5e-4 * batch /
    256, decay .05, betas .9 and .95, batches of 4,096, 40 epochs of warm-up, random crops and flips alone.
    """

    name: Literal["mae"] = "mae"  # pyright: ignore[reportIncompatibleVariableOverride]
    masked: float = 0.75  # share of the patches
    normalize: bool = True  # each patch's pixels to mean 0 and variance 1 (section 4.1)
    width: int = 512  # of the decoder
    depth: int = 8
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(0 < self.masked < 1, "masked", "must lie between 0 and 1")
        require(self.width % 32 == 0, "width", "must be a multiple of 32")
        require(self.width > 0, "width", "must be positive")
        require(self.depth > 0, "depth", "must be positive")

    def unsupported_model(self, model: ModelConfig, size: int) -> str | None:
        """Patches are masked, so there must be some, and in the places that the positions are for."""
        return without_patches(self.name, model, size)

    @property
    def views(self) -> tuple[ViewSpec, ...]:
        """One view."""
        return (ViewSpec("view"),)
