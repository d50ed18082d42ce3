"""Settings of PIRL."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import SelfSupervised


@dataclass(frozen=True, kw_only=True)
class PIRL(SelfSupervised):
    """PIRL (Misra and van der Maaten 2020, arXiv:1912.01991): published with SGD, lr .12 to 1.2e-4 by a cosine, batches
    of 1,024. The first view is the image; the second is cut into a jigsaw of 3 x 3 tiles, turned, or both.
    """

    name: Literal["pirl"] = "pirl"  # pyright: ignore[reportIncompatibleVariableOverride]
    pretext: tuple[Literal["jigsaw", "rotation"], ...] = ("jigsaw",)  # of two the mean loss
    temperature: float = 0.07
    weight: float = 0.5  # lambda of eq. 5
    negatives: int = 32_000  # drawn from the bank for each batch
    momentum: float = 0.5  # of the bank
    first_memory: Literal["random", "embedding"] = "random"  # of an image not yet seen: the embedding learns at once
    projection: int = 128
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(len(self.pretext) > 0, "pretext", "must name jigsaw, rotation or both")
        require(0 <= self.weight <= 1, "weight", "must lie between 0 and 1")
        require(0 <= self.momentum < 1, "momentum", "must lie in [0, 1)")
        require(self.temperature > 0, "temperature", "must be positive")
        require(self.negatives > 0, "negatives", "must be positive")
        require(self.projection > 0, "projection", "must be positive")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "its memory bank takes up whole batches"
