"""TiCo: views agree, and stay apart from the directions that past embeddings took (arXiv:2206.10698)."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import in_float32
from sslscale.methods.method import Losses, Method
from sslscale.methods.tico import TiCo
from sslscale.nn.classifier import build_backbone
from sslscale.nn.ema import cosine_momentum, update_ema
from sslscale.nn.heads import mlp
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


@in_float32
def tico_terms(
    query: Float[Tensor, "batch dim"], key: Float[Tensor, "batch dim"], covariance: Float[Tensor, "dim dim"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """1 - z . z' and z^T C z, means over the batch (equation 4); rows are scaled to length 1, C has no gradient."""
    z, other = (F.normalize(rows.float(), dim=1) for rows in (query, key.detach()))
    return distributed.mean(1 - (z * other).sum(1)), distributed.mean(((z @ covariance) * z).sum(1))


@torch.no_grad()
@in_float32
def next_covariance(
    covariance: Float[Tensor, "dim dim"], query: Float[Tensor, "batch dim"], memory: float
) -> Float[Tensor, "dim dim"]:
    """C <- beta C + (1 - beta) mean of z z^T over the rows of all workers (algorithm 1)."""
    z = F.normalize(query.float(), dim=1)
    return torch.lerp(distributed.all_sum(z.T @ z) / distributed.total(len(z)), covariance, memory)


class TiCoMethod(Method):
    """A backbone and projector, a slow copy of both, and the covariance of past embeddings."""

    covariance: Tensor

    def __init__(self, settings: TiCo, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_backbone(model)
        self.projector = mlp([width, settings.hidden, settings.projection])
        self.slow = copy.deepcopy(nn.Sequential(self.backbone, self.projector)).requires_grad_(False)
        self.register_buffer("covariance", torch.zeros(settings.projection, settings.projection))

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        first, second = batch["images"].views
        embedding = self.projector(self.backbone(first))
        with torch.no_grad():
            key = self.slow(second)
        covariance = next_covariance(self.covariance, embedding.detach(), self.settings.memory)
        agreement, contrast = tico_terms(embedding, key, covariance)
        if self.training:
            self.covariance.copy_(covariance)
        loss = agreement + self.settings.covariance * contrast
        parts = {"loss": loss, "invariance": agreement, "covariance": contrast}
        return Losses(loss, {name: value.detach() for name, value in parts.items()}, embedding.detach())

    def after_step(self, step: int, progress: float) -> None:
        online = nn.Sequential(self.backbone, self.projector)
        update_ema(self.slow, online, cosine_momentum(self.settings.momentum, progress), buffers=False)

    @property
    def result(self) -> nn.Module:
        return self.backbone
