"""Settings of the spectral contrastive loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from sslscale.config import require
from sslscale.methods.settings import MethodSettings


@dataclass(frozen=True, kw_only=True)
class SCL(MethodSettings):
    """Spectral contrastive learning (HaoChen et al. 2021, arXiv:2106.04156): published with SGD, lr .03 * batch / 256
    on CIFAR-10 (`mu` 1, `layers` 2, `projection` 1,000) and .05 on ImageNet (10, 3, 8,192).
    """

    num_views: ClassVar[int] = 2
    name: Literal["scl"] = "scl"  # pyright: ignore[reportIncompatibleVariableOverride]
    mu: float = 1.0  # the square of the longest embedding's length
    layers: int = 2  # of the projector
    projection: int = 1000  # width of its layers
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.mu > 0, "mu", "must be positive")
        require(self.layers > 0, "layers", "must be positive")
        require(self.projection > 0, "projection", "must be positive")

    def batch_sizes(self, batch_size: int) -> Mapping[str, int]:
        """Images of each stream in one global batch."""
        return {"images": batch_size}

    @property
    def whole_batch(self) -> str:
        """Why a step needs its batch at once."""
        return "it compares the images of a batch with one another"
