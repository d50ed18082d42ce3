"""Settings of supervised contrastive learning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from sslscale.config import require
from sslscale.methods.settings import MethodSettings


@dataclass(frozen=True, kw_only=True)
class SupCon(MethodSettings):
    """Supervised contrastive learning (Khosla et al. 2020, arXiv:2004.11362): published with SGD, lr .5, batches of
    1,024 on CIFAR-10.

    `stream` names the images: `labeled`; `mixed`, every training image, those without a label being positives of
    themselves alone; `pseudo`, pseudo-labelled ones, each of its most probable class.
    """

    num_views: ClassVar[int] = 2
    name: Literal["supcon"] = "supcon"  # pyright: ignore[reportIncompatibleVariableOverride]
    stream: Literal["labeled", "mixed", "pseudo"] = "labeled"
    temperature: float = 0.1
    projection: int = 128  # its hidden layer is as wide as the features
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.temperature > 0, "temperature", "must be positive")
        require(self.projection > 0, "projection", "must be positive")

    def batch_sizes(self, batch_size: int) -> Mapping[str, int]:
        """Images of each stream in one global batch."""
        return {self.stream: batch_size}

    @property
    def whole_batch(self) -> str:
        """Why a step needs its batch at once."""
        return "it compares the images of a batch with one another"
