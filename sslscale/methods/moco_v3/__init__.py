"""Settings of MoCo v3."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import SelfSupervised


@dataclass(frozen=True, kw_only=True)
class MoCoV3(SelfSupervised):
    """MoCo v3 (Chen et al. 2021, arXiv:2104.02057): published with batches of 4,096, LARS for ResNet-50 (`temperature`
    1, `layers` 2, `predictor_norm` false) and AdamW for ViT (.2, 3, true, and `freeze_patches`).
    """

    name: Literal["moco_v3"] = "moco_v3"  # pyright: ignore[reportIncompatibleVariableOverride]
    temperature: float = 1.0
    momentum: float = 0.99  # of the network that makes the keys, where it begins; it rises to 1 by a cosine
    layers: int = 2  # of the projector
    hidden: int = 4096  # of projector and predictor
    projection: int = 256
    predictor_norm: bool = False  # batch norm at the predictor's end
    freeze_patches: bool = False  # a ViT's patches stay a random projection (section 4)
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(0 <= self.momentum < 1, "momentum", "must lie in [0, 1)")
        require(self.temperature > 0, "temperature", "must be positive")
        require(self.layers > 0, "layers", "must be positive")
        require(self.hidden > 0, "hidden", "must be positive")
        require(self.projection > 0, "projection", "must be positive")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "it compares the images of a batch with one another"
