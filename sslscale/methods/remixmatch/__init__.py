"""Settings of ReMixMatch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import STRONG, WEAK, SemiSupervised
from sslscale.settings.streams import ViewSpec


@dataclass(frozen=True, kw_only=True)
class ReMixMatch(SemiSupervised):
    """ReMixMatch (Berthelot et al. 2020, arXiv:1911.09785): as MixMatch, with the prediction for a weak view as the
    target of `strong` strong ones, aligned to the distribution of the labels; with a term for one strong view unmixed,
    and one for how far it is turned. Published with beta .75, 8 strong views by CTAugment, Adam with lr .002.
    """

    name: Literal["remixmatch"] = "remixmatch"  # pyright: ignore[reportIncompatibleVariableOverride]
    unlabeled_weight: float = 1.5
    strong: int = 8  # K
    ctaugment: bool = False  # the method makes the strong views itself; views.strong must then be left out
    temperature: float = 0.5
    alpha: float = 0.75  # of mixup's Beta(alpha, alpha)
    unmixed_weight: float = 0.5
    rotation_weight: float = 0.5
    batches: int = 128  # over which the distribution of predictions and labels is taken
    ramp: float = 1 / 64  # share of the training in which the two unlabelled weights rise in a line
    version: int = field(default=3, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.strong >= 1, "strong", "must be 1 or more")
        require(self.temperature > 0, "temperature", "must be positive")
        require(self.alpha > 0, "alpha", "must be positive")
        require(self.unmixed_weight >= 0, "unmixed_weight", "must be 0 or more")
        require(self.rotation_weight >= 0, "rotation_weight", "must be 0 or more")
        require(self.batches > 0, "batches", "must be positive")
        require(0 < self.ramp <= 1, "ramp", "is a share of the training, above 0 to 1")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "it mixes the images of a batch with one another"

    @property
    def unlabeled_views(self) -> tuple[ViewSpec, ...]:
        """The views of an unlabelled image."""
        return (
            (ViewSpec("weak", 1 + self.strong),)
            if self.ctaugment
            else (WEAK, ViewSpec("strong", self.strong, required=True))
        )

    @property
    def labeled_views(self) -> tuple[ViewSpec, ...]:
        """A strong view. With CTAugment the method makes it of a weak one, and learns from a second weak one."""
        return (ViewSpec("weak", 2),) if self.ctaugment else (STRONG,)
