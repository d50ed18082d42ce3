"""Settings of TiCo."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import SelfSupervised


@dataclass(frozen=True, kw_only=True)
class TiCo(SelfSupervised):
    """TiCo (Zhu et al. 2022, arXiv:2206.10698): a view agrees with the slow network's of the other, and is apart from
    the directions that past embeddings took. Published with LARS (`trust` .001), lr .2 * batch / 256, decay 1.5e-6.
    """

    name: Literal["tico"] = "tico"  # pyright: ignore[reportIncompatibleVariableOverride]
    covariance: float = 8.0  # rho, the weight of the second term
    memory: float = 0.9  # beta, the share of the old covariance that stays
    momentum: float = 0.99  # of the slow network, where it begins; it rises to 1 by a cosine
    hidden: int = 4096
    projection: int = 256
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.covariance >= 0, "covariance", "must be 0 or more")
        require(0 <= self.memory < 1, "memory", "must lie in [0, 1)")
        require(0 <= self.momentum < 1, "momentum", "must lie in [0, 1)")
        require(self.hidden > 0, "hidden", "must be positive")
        require(self.projection > 0, "projection", "must be positive")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "it takes the covariance of a batch's embeddings"
