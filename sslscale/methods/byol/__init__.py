"""Settings of BYOL."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import SelfSupervised


@dataclass(frozen=True, kw_only=True)
class BYOL(SelfSupervised):
    """BYOL (Grill et al. 2020, arXiv:2006.07733): published with LARS and batches of 4,096, and with views
    that are not made alike (`views.second` of the training).

    `momentum` is where the target network's begins; it rises to 1 by a cosine (section 3.2).
    """

    name: Literal["byol"] = "byol"  # pyright: ignore[reportIncompatibleVariableOverride]
    momentum: float = 0.996
    projection: int = 256
    hidden: int = 4096
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(0 <= self.momentum < 1, "momentum", "must lie in [0, 1)")
        require(self.projection > 0, "projection", "must be positive")
        require(self.hidden > 0, "hidden", "must be positive")
