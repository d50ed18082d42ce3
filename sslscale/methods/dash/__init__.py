"""Settings of Dash."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import SemiSupervised


@dataclass(frozen=True, kw_only=True)
class Dash(SemiSupervised):
    """Dash (Xu et al. 2021, arXiv:2109.00650): as FixMatch, for the images whose loss is below rho_t = C gamma^-(t-1)
    rho, where rho is the labelled loss after a warm-up on labels alone, and t grows by 1 every `every` of the
    training. Above `rho_min` the targets are soft, sharpened by `temperature`; at it they are hard.
    """

    name: Literal["dash"] = "dash"  # pyright: ignore[reportIncompatibleVariableOverride]
    unlabeled_ratio: int = 7
    c: float = 1.0001
    gamma: float = 1.27
    rho_min: float = 0.05
    temperature: float = 0.5
    warmup: float = 2048 / 2**20  # shares of the training
    every: float = 9 / 1024
    version: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.c > 0, "c", "must be positive")
        require(self.gamma > 1, "gamma", "must be above 1")
        require(self.rho_min > 0, "rho_min", "must be positive")
        require(self.temperature > 0, "temperature", "must be positive")
        require(0 < self.warmup < 1, "warmup", "is a share of the training, above 0 and below 1")
        require(0 < self.every <= 1, "every", "is a share of the training, above 0 to 1")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "its bound follows whole batches"
