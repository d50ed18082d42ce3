"""Settings of SwAV."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import MethodSettings, MultiCrop


@dataclass(frozen=True, kw_only=True)
class SwAV(MultiCrop):
    """SwAV (Caron et al. 2020, arXiv:2006.09882): published with LARS, lr .6 * batch / 256, and crops of two sizes
    (`views.local` of the training). Small batches take the queue; the authors' code switches it on at epoch 15.
    """

    name: Literal["swav"] = "swav"  # pyright: ignore[reportIncompatibleVariableOverride]
    temperature: float = 0.1
    epsilon: float = 0.05  # of the assignments' entropy
    iterations: int = 3  # of Sinkhorn
    prototypes: int = 3000
    hidden: int = 2048  # of the projector
    projection: int = 128
    queue: int = 0  # embeddings of past batches that take part in the assignments; 3,840 for batches of 256
    queue_epoch: float = 15.0  # when they begin to
    freeze_prototypes: float = 1.0  # epochs
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.queue >= 0, "queue", "must be 0 (none) or more")
        require(self.queue_epoch >= 0, "queue_epoch", "must be 0 or more")
        require(self.freeze_prototypes >= 0, "freeze_prototypes", "must be 0 or more")
        require(self.temperature > 0, "temperature", "must be positive")
        require(self.epsilon > 0, "epsilon", "must be positive")
        require(self.iterations > 0, "iterations", "must be positive")
        require(self.prototypes > 0, "prototypes", "must be positive")
        require(self.hidden > 0, "hidden", "must be positive")
        require(self.projection > 0, "projection", "must be positive")

    def without_warmup(self) -> MethodSettings:
        """Without warm-ups and freezes, which the training before has had."""
        return replace(self, queue_epoch=0.0, freeze_prototypes=0.0)

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "it shares the prototypes out among the images of a batch"
