"""BYOL: an online network predicts what its own moving average makes of the other view (arXiv:2006.07733)."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.methods.byol import BYOL
from sslscale.methods.method import Losses, Method
from sslscale.nn.classifier import build_backbone
from sslscale.nn.ema import cosine_momentum, update_ema
from sslscale.nn.heads import mlp
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


def byol_loss(predicted: Float[Tensor, "batch dim"], target: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """Eq. 2: |q/|q| - z/|z||^2 = 2 - 2 q.z / (|q| |z|), its mean over the batch; no gradient reaches z."""
    return distributed.mean(2 - 2 * F.cosine_similarity(predicted.float(), target.detach().float(), dim=1))


class BYOLMethod(Method):
    """An online backbone, projector and predictor, and a target backbone and projector that follow by average."""

    def __init__(self, settings: BYOL, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_backbone(model)
        self.projector = mlp([width, settings.hidden, settings.projection])
        self.predictor = mlp([settings.projection, settings.hidden, settings.projection])
        online = nn.Sequential(self.backbone, self.projector)
        self.target = copy.deepcopy(online).requires_grad_(False)

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        views = batch["images"].views
        embeddings = [self.projector(self.backbone(view)) for view in views]
        with torch.no_grad():  # in training mode: the target norms by its own batch, as the authors' does
            targets = [self.target(view) for view in views]
        first, second = (self.predictor(z) for z in embeddings)
        loss = byol_loss(first, targets[1]) + byol_loss(second, targets[0])
        return Losses(loss, {"loss": loss.detach()}, embeddings[0].detach())

    def after_step(self, step: int, progress: float) -> None:
        momentum = cosine_momentum(self.settings.momentum, progress)  # section 3.2
        online = nn.Sequential(self.backbone, self.projector)
        update_ema(self.target, online, momentum, buffers=False)

    @property
    def result(self) -> nn.Module:
        return self.backbone
