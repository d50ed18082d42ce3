"""Settings of virtual adversarial training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import WEAK, SemiSupervised
from sslscale.settings.streams import ViewSpec


@dataclass(frozen=True, kw_only=True)
class VAT(SemiSupervised):
    """Virtual adversarial training (Miyato et al. 2018, arXiv:1704.03976): predictions shall stand the change of
    `epsilon` (L2, of normalised images) that changes them most. `entropy_weight` above 0 adds the entropy of the
    predictions. Published with weight 1 from the first step, epsilon 8 and entropy weight 1 for CIFAR-10 with
    augmentation. FixMatch's authors let a weight of .3 rise over .4 of the training, with epsilon 6 and entropy .06.
    """

    name: Literal["vat"] = "vat"  # pyright: ignore[reportIncompatibleVariableOverride]
    epsilon: float = 8.0
    xi: float = 1e-2  # of the finite difference; the published 1e-6 is less than float32 tells apart in a pixel
    power_iterations: int = 1
    entropy_weight: float = 1.0
    ramp: float = 0.0  # share of the training in which the weight of the change rises in a line
    ema: float = 0.0
    version: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.epsilon > 0, "epsilon", "must be positive")
        require(self.xi > 0, "xi", "must be positive")
        require(self.power_iterations >= 1, "power_iterations", "must be 1 or more")
        require(0 <= self.ramp <= 1, "ramp", "is a share of the training, 0 to 1")
        require(self.entropy_weight >= 0, "entropy_weight", "must be 0 or more")

    @property
    def unlabeled_views(self) -> tuple[ViewSpec, ...]:
        """The views of an unlabelled image."""
        return (WEAK,)
