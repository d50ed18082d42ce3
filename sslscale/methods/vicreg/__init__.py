"""Settings of VICReg."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import SelfSupervised


@dataclass(frozen=True, kw_only=True)
class VICReg(SelfSupervised):
    """VICReg (Bardes et al. 2022, arXiv:2105.04906): published with LARS and batches of 2,048."""

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

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "it compares the images of a batch with one another"
