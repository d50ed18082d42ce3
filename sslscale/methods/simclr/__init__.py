"""Settings of SimCLR."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import SelfSupervised


@dataclass(frozen=True, kw_only=True)
class SimCLR(SelfSupervised):
    """SimCLR (arXiv:2002.05709). `temperature` is .1 for ImageNet, .5 for CIFAR-10 (appendix B.9)."""

    name: Literal["simclr"] = "simclr"  # pyright: ignore[reportIncompatibleVariableOverride]
    temperature: float = 0.1
    projection: int = 128  # width of the projector's output; its hidden layer is as wide as the features
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.temperature > 0, "temperature", "must be positive")
        require(self.projection > 0, "projection", "must be positive")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "it compares the images of a batch with one another"
