"""Settings of FreeMatch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import SemiSupervised


@dataclass(frozen=True, kw_only=True)
class FreeMatch(SemiSupervised):
    """FreeMatch (Wang et al. 2023, arXiv:2205.07246): as FixMatch, with thresholds that follow the mean confidence,
    for each class by its mean probability, and a term for classes that are predicted alike often (`fairness_weight`).
    """

    name: Literal["freematch"] = "freematch"  # pyright: ignore[reportIncompatibleVariableOverride]
    unlabeled_ratio: int = 7
    momentum: float = 0.999  # of the means
    fairness_weight: float = 0.001
    version: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.momentum < 1, "momentum", "must lie in [0, 1)")
        require(self.fairness_weight >= 0, "fairness_weight", "must be 0 or more")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "its thresholds follow whole batches"
