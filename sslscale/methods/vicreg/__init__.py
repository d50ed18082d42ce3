"""Settings of VICReg."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from sslscale.config import require
from sslscale.methods.settings import MethodSettings


@dataclass(frozen=True, kw_only=True)
class VICReg(MethodSettings):
    """VICReg (Bardes et al. 2022, arXiv:2105.04906): published with LARS and batches of 2,048."""

    num_views: ClassVar[int] = 2
    name: Literal["vicreg"] = "vicreg"  # pyright: ignore[reportIncompatibleVariableOverride]
    invariance: float = 25.0  # lambda of eq. 6
    variance: float = 25.0  # mu
    covariance: float = 1.0  # nu
    projection: int = 8192  # width of the expander's three layers
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.invariance > 0, "invariance", "must be positive")
        require(self.variance > 0, "variance", "must be positive")
        require(self.covariance > 0, "covariance", "must be positive")
        require(self.projection > 0, "projection", "must be positive")

    def batch_sizes(self, batch_size: int) -> Mapping[str, int]:
        """Images of each stream in one global batch."""
        return {"images": batch_size}

    @property
    def whole_batch(self) -> str:
        """Why a step needs its batch at once."""
        return "it compares the images of a batch with one another"
