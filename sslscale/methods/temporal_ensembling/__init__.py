"""Settings of temporal ensembling."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import WEAK, SemiSupervised
from sslscale.settings.streams import ViewSpec


@dataclass(frozen=True, kw_only=True)
class TemporalEnsembling(SemiSupervised):
    """Temporal ensembling (Laine and Aila 2017, arXiv:1610.02242): as the Pi-model, against a running mean of the past
    predictions for an image, one for each epoch.
    """

    name: Literal["temporal_ensembling"] = "temporal_ensembling"  # pyright: ignore[reportIncompatibleVariableOverride]
    unlabeled_weight: float = 100.0
    momentum: float = 0.6  # alpha, of the past predictions
    ramp: float = 80 / 300  # share of the training in which the weight rises, exp(-5 (1 - t)^2)
    ema: float = 0.0
    version: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.ramp <= 1, "ramp", "is a share of the training, above 0 to 1")
        require(0 <= self.momentum < 1, "momentum", "must lie in [0, 1)")

    @property
    def unlabeled_views(self) -> tuple[ViewSpec, ...]:
        """The views of an unlabelled image."""
        return (WEAK,)
