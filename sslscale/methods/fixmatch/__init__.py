"""Settings of FixMatch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from sslscale.config import require
from sslscale.methods.settings import SemiSupervised


@dataclass(frozen=True, kw_only=True)
class FixMatch(SemiSupervised):
    """FixMatch (Sohn et al. 2020, arXiv:2001.07685): a strong view shall have the class of the weak one where that is
    confident. Published with batches of 64, SGD with Nesterov momentum, lr .03, and 2^20 steps.

    With `ctaugment` the strong view is made by operations whose strengths are learned (and cutout); `augment_strong`
    must then be left out.
    """

    strong_views: ClassVar[int] = 1

    name: Literal["fixmatch"] = "fixmatch"  # pyright: ignore[reportIncompatibleVariableOverride]
    unlabeled_ratio: int = 7
    threshold: float = 0.95
    ctaugment: bool = False
    version: int = field(default=3, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.threshold <= 1, "threshold", "must lie between 0 and 1")

    @property
    def whole_batch(self) -> str:
        """Why a step needs its batch at once."""
        return "CTAugment's rates follow whole batches" if self.ctaugment else ""

    def views(self, stream: str) -> tuple[int, int]:
        """Weak and strong views of an image; with CTAugment the method makes the strong view of a second weak one."""
        return (2, 0) if self.ctaugment else super().views(stream)
