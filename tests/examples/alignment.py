"""A method from outside the package: alignment and uniformity (Wang and Isola 2020, arXiv:2005.10242).

One file holds the settings, the loss and the network. `method: {name: alignment.py}` in a configuration finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.config import require
from sslscale.data.batch import Batch
from sslscale.methods.method import Losses, Method
from sslscale.nn.classifier import build_backbone
from sslscale.settings.method import SelfSupervised
from sslscale.settings.model import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Alignment(SelfSupervised):
    """Two views of an image shall have near embeddings; all embeddings shall spread over the sphere."""

    name: Literal["alignment"] = "alignment"  # pyright: ignore[reportIncompatibleVariableOverride]
    alpha: float = 2.0  # of the alignment, section 4.1
    t: float = 2.0  # of the uniformity
    projection: int = 64
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.t > 0, "t", "must be positive")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "it compares the images of a batch with one another"


def alignment(x: Tensor, y: Tensor, alpha: float) -> Tensor:
    """E ||x - y||^alpha, of pairs (batch, dim) of rows of length 1; this worker's mean."""
    return (x - y).norm(dim=1).pow(alpha).mean()


def uniformity(x: Tensor, t: float) -> Tensor:
    """log E exp(-t ||x_i - x_j||^2) over all pairs i < j of the global batch."""
    every = distributed.gather(x)
    return torch.pdist(every).square().mul(-t).exp().mean().log()


class AlignmentMethod(Method):
    """A backbone and a linear projector."""

    def __init__(self, settings: Alignment, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_backbone(model)
        self.projector = nn.Linear(width, settings.projection)

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        views = batch["images"].views
        first, second = F.normalize(self.projector(self.backbone(torch.cat(views))).float(), dim=1).chunk(2)
        aligned = alignment(first, second, self.settings.alpha)
        uniform = (uniformity(first, self.settings.t) + uniformity(second, self.settings.t)) / 2
        loss = aligned + uniform
        parts = {"loss": loss, "alignment": aligned, "uniformity": uniform}
        return Losses(loss, {name: value.detach() for name, value in parts.items()}, first.detach())

    @property
    def result(self) -> nn.Module:
        return self.backbone
