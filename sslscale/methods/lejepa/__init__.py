"""Settings of LeJEPA."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import MultiCrop


@dataclass(frozen=True, kw_only=True)
class LeJEPA(MultiCrop):
    """LeJEPA (Balestriero & LeCun 2025, arXiv:2511.08544): views agree, and embeddings are normally distributed, which
    SIGReg measures along random directions. Published with AdamW, lr 5e-4, decay .05 (ResNets 5e-4), 2 global and 6
    local views, and embeddings of 16 to 512 dimensions.
    """

    name: Literal["lejepa"] = "lejepa"  # pyright: ignore[reportIncompatibleVariableOverride]
    regularization: float = 0.05  # lambda: the loss is (1 - lambda) * invariance + lambda * SIGReg
    directions: int = 1024  # new ones at each step
    knots: int = 17  # of the integral over [0, 3]
    hidden: int = 2048
    projection: int = 128
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(0 <= self.regularization <= 1, "regularization", "must lie between 0 and 1")
        require(self.directions > 0, "directions", "must be positive")
        require(self.knots >= 3, "knots", "must be 3 or more")
        require(self.hidden > 0, "hidden", "must be positive")
        require(self.projection > 0, "projection", "must be positive")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "it measures the distribution of a batch's embeddings"
