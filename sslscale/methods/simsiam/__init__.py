"""Settings of SimSiam."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import SelfSupervised


@dataclass(frozen=True, kw_only=True)
class SimSiam(SelfSupervised):
    """SimSiam (Chen & He 2021, arXiv:2011.10566): published with SGD, lr .05 * batch / 256, batches of 512 at most.

    The predictor's learning rate stays at its peak (`constant_predictor`, table 1b there).
    """

    name: Literal["simsiam"] = "simsiam"  # pyright: ignore[reportIncompatibleVariableOverride]
    projection: int = 2048  # width of the projector's three layers
    hidden: int = 512  # of the predictor
    constant_predictor: bool = True
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.projection > 0, "projection", "must be positive")
        require(self.hidden > 0, "hidden", "must be positive")
