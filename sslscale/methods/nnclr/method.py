"""NNCLR: an image's nearest neighbour among past embeddings attracts its other view (arXiv:2104.14548)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import in_float32
from sslscale.methods.method import Losses, Method
from sslscale.methods.nnclr import NNCLR
from sslscale.nn.classifier import build_backbone
from sslscale.nn.heads import mlp
from sslscale.nn.queue import Queue
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


@in_float32
def nnclr_loss(
    neighbours: Float[Tensor, "batch dim"], predicted: Float[Tensor, "batch dim"], temperature: float
) -> Float[Tensor, ""]:
    """Eq. 4: -log(exp(nn_i . p_i / t) / sum_k exp(nn_i . p_k / t)), its mean over this worker's images.

    Neighbours and predictions are scaled to length 1; k runs over the images of all workers.
    """
    every = distributed.gather(F.normalize(predicted.float(), dim=1))
    place = distributed.rows(len(neighbours)).start + torch.arange(len(neighbours), device=every.device)
    logits = F.normalize(neighbours.detach().float(), dim=1) @ every.T / temperature
    return distributed.mean(F.cross_entropy(logits, place, reduction="none"))


class NNCLRMethod(Method):
    """A backbone, a projector of three layers, a predictor, and a queue of past projections."""

    def __init__(self, settings: NNCLR, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_backbone(model)
        self.projector = mlp([width, settings.hidden, settings.hidden, settings.projection], last="norm")
        self.predictor = mlp([settings.projection, settings.predictor, settings.projection])
        self.queue = Queue(settings.queue, settings.projection)

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        first, second = (self.projector(self.backbone(view)) for view in batch["images"].views)
        p_first, p_second = self.predictor(first), self.predictor(second)
        temperature = self.settings.temperature
        loss = nnclr_loss(self.queue.nearest(first), p_second, temperature)
        loss = (loss + nnclr_loss(self.queue.nearest(second), p_first, temperature)) / 2
        if self.training:
            self.queue.push(F.normalize(first.float(), dim=1))  # algorithm 1: of the first view alone
        return Losses(loss, {"loss": loss.detach()}, first.detach())

    @property
    def result(self) -> nn.Module:
        return self.backbone
