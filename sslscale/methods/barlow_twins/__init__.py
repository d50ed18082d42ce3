"""Settings of Barlow Twins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import SelfSupervised


@dataclass(frozen=True, kw_only=True)
class BarlowTwins(SelfSupervised):
    """Barlow Twins (Zbontar et al. 2021, arXiv:2103.03230): published with LARS and batches of 2,048."""

    name: Literal["barlow_twins"] = "barlow_twins"  # pyright: ignore[reportIncompatibleVariableOverride]
    off_diagonal: float = 0.0051  # lambda of eq. 1
    projection: int = 8192  # width of the projector's three layers
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.off_diagonal > 0, "off_diagonal", "must be positive")
        require(self.projection > 0, "projection", "must be positive")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "it compares the images of a batch with one another"
