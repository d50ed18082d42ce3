"""Settings of SimCLR."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from sslscale.config import require
from sslscale.methods.settings import MethodSettings


@dataclass(frozen=True, kw_only=True)
class SimCLR(MethodSettings):
    """SimCLR (arXiv:2002.05709). `temperature` is .1 for ImageNet, .5 for CIFAR-10 (appendix B.9)."""

    num_views: ClassVar[int] = 2
    name: Literal["simclr"] = "simclr"  # pyright: ignore[reportIncompatibleVariableOverride]
    temperature: float = 0.1
    projection: int = 128  # width of the projector's output; its hidden layer is as wide as the features
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.temperature > 0, "temperature", "must be positive")
        require(self.projection > 0, "projection", "must be positive")

    def batch_sizes(self, batch_size: int) -> Mapping[str, int]:
        """Images of each stream in one global batch."""
        return {"images": batch_size}

    @property
    def whole_batch(self) -> str:
        """Why a step needs its batch at once."""
        return "it compares the images of a batch with one another"
