"""Settings of MixMatch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import SemiSupervised
from sslscale.settings.streams import ViewSpec


@dataclass(frozen=True, kw_only=True)
class MixMatch(SemiSupervised):
    """MixMatch (Berthelot et al. 2019, arXiv:1905.02249): the sharpened mean prediction for `guesses` views is the
    target of all of them; then all images are mixed (mixup). Published for CIFAR-10 with weight 75, beta .75, Adam
    with lr .002.
    """

    name: Literal["mixmatch"] = "mixmatch"  # pyright: ignore[reportIncompatibleVariableOverride]
    unlabeled_weight: float = 75.0
    guesses: int = 2  # K
    temperature: float = 0.5
    alpha: float = 0.75  # of mixup's Beta(alpha, alpha)
    ramp: float = 1 / 64  # share of the training in which the weight rises in a line
    version: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.guesses >= 1, "guesses", "must be 1 or more")
        require(self.temperature > 0, "temperature", "must be positive")
        require(self.alpha > 0, "alpha", "must be positive")
        require(0 < self.ramp <= 1, "ramp", "is a share of the training, above 0 to 1")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "it mixes the images of a batch with one another"

    @property
    def unlabeled_views(self) -> tuple[ViewSpec, ...]:
        """The views of an unlabelled image."""
        return (ViewSpec("weak", self.guesses),)
