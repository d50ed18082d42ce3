"""Settings of supervised contrastive learning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import FIRST, SECOND, MethodSettings
from sslscale.settings.streams import Field, Source, StreamSpec


@dataclass(frozen=True, kw_only=True)
class SupCon(MethodSettings):
    """Supervised contrastive learning (Khosla et al. 2020, arXiv:2004.11362): published with SGD, lr .5, batches of
    1,024 on CIFAR-10.

    `stream` names the images: `labeled`; `mixed`, every training image, those without a label being positives of
    themselves alone; `pseudo`, pseudo-labelled ones, each of its most probable class.
    """

    name: Literal["supcon"] = "supcon"  # pyright: ignore[reportIncompatibleVariableOverride]
    stream: Literal["labeled", "mixed", "pseudo"] = "labeled"
    temperature: float = 0.1
    projection: int = 128  # its hidden layer is as wide as the features
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.temperature > 0, "temperature", "must be positive")
        require(self.projection > 0, "projection", "must be positive")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "it compares the images of a batch with one another"

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        """The stream that `stream` names, with two views of each image."""
        field: Field = "soft_label" if self.stream == "pseudo" else "label"
        source: Source = "all" if self.stream == "mixed" else self.stream
        return (StreamSpec(name=self.stream, source=source, fields=(field,), views=(FIRST, SECOND)),)
