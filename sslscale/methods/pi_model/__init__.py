"""Settings of the Pi-model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import SemiSupervised
from sslscale.settings.streams import ViewSpec


@dataclass(frozen=True, kw_only=True)
class PiModel(SemiSupervised):
    """Pi-model (Laine and Aila 2017, arXiv:1610.02242): two noisy passes over an image shall agree. Published with
    weight 100 for 4,000 labels of CIFAR-10, reached after 80 of 300 epochs, and Adam.
    """

    name: Literal["pi_model"] = "pi_model"  # pyright: ignore[reportIncompatibleVariableOverride]
    unlabeled_weight: float = 100.0
    ramp: float = 80 / 300  # share of the training in which the weight rises, exp(-5 (1 - t)^2)
    ema: float = 0.0
    version: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.ramp <= 1, "ramp", "is a share of the training, above 0 to 1")

    @property
    def unlabeled_views(self) -> tuple[ViewSpec, ...]:
        """The views of an unlabelled image."""
        return (ViewSpec("weak", 2),)
