"""Settings of DenseCL."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import MethodSettings, SelfSupervised
from sslscale.settings.model import ModelConfig


@dataclass(frozen=True, kw_only=True)
class DenseCL(SelfSupervised):
    """DenseCL (Wang et al. 2021, arXiv:2011.09157): MoCo v2, and the same for each place of the map of features, whose
    positive is the place of the other view that is most like it. Published with SGD, lr .03 and batches of 256, and
    shuffled batch norm, for which `sync_batch_norm` stands here. For convolutional networks.
    """

    name: Literal["densecl"] = "densecl"  # pyright: ignore[reportIncompatibleVariableOverride]
    dense: float = 0.5  # lambda, the weight of the places; images weigh the rest
    warmup: float = 0.0  # share of the training over which that weight rises in a line from 0
    temperature: float = 0.2
    queue: int = 65_536  # keys of past batches: of images, and as many means over an image's places
    momentum: float = 0.999  # of the network that makes the keys
    projection: int = 128
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(0 <= self.dense <= 1, "dense", "must lie between 0 and 1")
        require(0 <= self.warmup <= 1, "warmup", "must lie between 0 and 1")
        require(0 <= self.momentum < 1, "momentum", "must lie in [0, 1)")
        require(self.temperature > 0, "temperature", "must be positive")
        require(self.queue > 0, "queue", "must be positive")
        require(self.projection > 0, "projection", "must be positive")

    def unsupported_model(self, model: ModelConfig, size: int) -> str | None:
        """Places are those of a convolutional network's map."""
        del size
        wrong = f"{self.name} compares places of a map, which {model.name} does not give: take a wrn or a resnet"
        return None if model.name.startswith(("wrn_", "resnet_", "resnext_")) else wrong

    def without_warmup(self) -> MethodSettings:
        """With the full weight from the start."""
        return replace(self, warmup=0.0)

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "its queues take up whole batches"
