"""Settings of SoftMatch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import SemiSupervised


@dataclass(frozen=True, kw_only=True)
class SoftMatch(SemiSupervised):
    """SoftMatch (Chen et al. 2023, arXiv:2301.10921): as FixMatch, every image weighed by a Gaussian of its
    confidence, cut at the mean (eq. 6), after the predictions are aligned to a uniform distribution of classes (eq.
    9).
    """

    name: Literal["softmatch"] = "softmatch"  # pyright: ignore[reportIncompatibleVariableOverride]
    unlabeled_ratio: int = 7
    momentum: float = 0.999  # of mean and variance
    sigmas: float = 2.0  # the width of the Gaussian is the deviation over this
    version: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.momentum < 1, "momentum", "must lie in [0, 1)")
        require(self.sigmas > 0, "sigmas", "must be positive")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "its thresholds follow whole batches"
