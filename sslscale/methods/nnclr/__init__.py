"""Settings of NNCLR."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import SelfSupervised


@dataclass(frozen=True, kw_only=True)
class NNCLR(SelfSupervised):
    """NNCLR (Dwibedi et al. 2021, arXiv:2104.14548): published with LARS and batches of 4,096, temperature .1."""

    name: Literal["nnclr"] = "nnclr"  # pyright: ignore[reportIncompatibleVariableOverride]
    temperature: float = 0.1
    queue: int = 98_304  # embeddings of past batches, among which the nearest is sought
    hidden: int = 2048  # of the projector, which has three layers
    projection: int = 256
    predictor: int = 4096  # hidden width
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.temperature > 0, "temperature", "must be positive")
        require(self.queue > 0, "queue", "must be positive")
        require(self.hidden > 0, "hidden", "must be positive")
        require(self.projection > 0, "projection", "must be positive")
        require(self.predictor > 0, "predictor", "must be positive")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "it compares the images of a batch with one another"
