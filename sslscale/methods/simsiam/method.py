"""SimSiam: each view predicts the other's embedding, through which no gradient flows (arXiv:2011.10566)."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.methods.method import Losses, Method
from sslscale.methods.simsiam import SimSiam
from sslscale.nn.classifier import build_backbone
from sslscale.nn.heads import mlp
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


def negative_cosine(predicted: Float[Tensor, "batch dim"], target: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """Eq. 1: D(p, z) = -p/|p| . z/|z|, its mean over the batch; no gradient reaches z."""
    return -distributed.mean(F.cosine_similarity(predicted.float(), target.detach().float(), dim=1))


class SimSiamMethod(Method):
    """A backbone, a projector of three layers (the last norm without scale and shift, as the authors' code) and a
    predictor; both are thrown away afterwards."""

    def __init__(self, settings: SimSiam, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_backbone(model)
        self.projector = mlp([width, *[settings.projection] * 3], last="plain_norm")
        self.predictor = mlp([settings.projection, settings.hidden, settings.projection])
        self.constant_lr = ("predictor.",) if settings.constant_predictor else ()

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        # one view after the other: each has its own batch statistics, as published
        embeddings = [self.projector(self.backbone(view)) for view in batch["images"].views]
        first, second = (self.predictor(z) for z in embeddings)
        loss = (negative_cosine(first, embeddings[1]) + negative_cosine(second, embeddings[0])) / 2  # eq. 4
        return Losses(loss, {"loss": loss.detach()}, embeddings[0].detach())

    @property
    def result(self) -> nn.Module:
        return self.backbone
