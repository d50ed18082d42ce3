"""Settings of MoCo v2."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import SelfSupervised


@dataclass(frozen=True, kw_only=True)
class MoCoV2(SelfSupervised):
    """MoCo v2 (Chen et al. 2020, arXiv:2003.04297; He et al. 2020, arXiv:1911.05722): published with SGD, lr .03 and
    batches of 256. Its shuffled batch norm is `sync_batch_norm` of the training here: no worker's statistics tell which
    keys are its own.
    """

    name: Literal["moco_v2"] = "moco_v2"  # pyright: ignore[reportIncompatibleVariableOverride]
    temperature: float = 0.2
    queue: int = 65_536  # keys of past batches
    momentum: float = 0.999  # of the network that makes the keys
    projection: int = 128
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(0 <= self.momentum < 1, "momentum", "must lie in [0, 1)")
        require(self.temperature > 0, "temperature", "must be positive")
        require(self.queue > 0, "queue", "must be positive")
        require(self.projection > 0, "projection", "must be positive")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "its queue takes up whole batches"
