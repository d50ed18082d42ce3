"""Settings of FlexMatch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import SemiSupervised


@dataclass(frozen=True, kw_only=True)
class FlexMatch(SemiSupervised):
    """FlexMatch (Zhang et al. 2021, arXiv:2110.08263): as FixMatch, with a threshold for each class that grows as more
    unlabelled images are confidently of it.
    """

    name: Literal["flexmatch"] = "flexmatch"  # pyright: ignore[reportIncompatibleVariableOverride]
    unlabeled_ratio: int = 7
    threshold: float = 0.95
    version: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.threshold <= 1, "threshold", "must lie between 0 and 1")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "its thresholds follow whole batches"
