"""Settings of the spectral contrastive loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import SelfSupervised


@dataclass(frozen=True, kw_only=True)
class SCL(SelfSupervised):
    """Spectral contrastive learning (HaoChen et al. 2021, arXiv:2106.04156): published with SGD, lr .03 * batch / 256
    on CIFAR-10 (`mu` 1, `layers` 2, `projection` 1,000) and .05 on ImageNet (10, 3, 8,192).
    """

    name: Literal["scl"] = "scl"  # pyright: ignore[reportIncompatibleVariableOverride]
    mu: float = 1.0  # the square of the longest embedding's length
    layers: int = 2  # of the projector
    projection: int = 1000  # width of its layers
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.mu > 0, "mu", "must be positive")
        require(self.layers > 0, "layers", "must be positive")
        require(self.projection > 0, "projection", "must be positive")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "it compares the images of a batch with one another"
