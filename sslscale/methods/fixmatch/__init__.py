"""Settings of FixMatch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import STRONG, WEAK, SemiSupervised
from sslscale.settings.streams import ViewSpec


@dataclass(frozen=True, kw_only=True)
class FixMatch(SemiSupervised):
    """FixMatch (Sohn et al. 2020, arXiv:2001.07685): a strong view shall have the class of the weak one where that is
    confident. Published with batches of 64, SGD with Nesterov momentum, lr .03, and 2^20 steps.

    With `ctaugment` the strong view is made by operations whose strengths are learned (and cutout); `views.strong`
    must then be left out.
    """

    name: Literal["fixmatch"] = "fixmatch"  # pyright: ignore[reportIncompatibleVariableOverride]
    unlabeled_ratio: int = 7
    threshold: float = 0.95
    ctaugment: bool = False
    version: int = field(default=3, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.threshold <= 1, "threshold", "must lie between 0 and 1")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "CTAugment's rates follow whole batches" if self.ctaugment else ""

    @property
    def labeled_views(self) -> tuple[ViewSpec, ...]:
        """One view; with CTAugment a second one, which it learns from."""
        return (ViewSpec("weak", 2),) if self.ctaugment else (WEAK,)

    @property
    def unlabeled_views(self) -> tuple[ViewSpec, ...]:
        """A weak and a strong view; with CTAugment the method makes the strong one of a second weak one."""
        return (ViewSpec("weak", 2),) if self.ctaugment else (WEAK, STRONG)
