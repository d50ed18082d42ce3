"""MoCo v3: a prediction finds the other view, made by a slow network, in the global batch (arXiv:2104.02057)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.errors import ConfigError
from sslscale.losses import in_float32
from sslscale.methods.method import Losses, Method
from sslscale.methods.moco_v3 import MoCoV3
from sslscale.nn.classifier import build_backbone
from sslscale.nn.ema import cosine_momentum, update_ema
from sslscale.nn.heads import mlp
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


@in_float32
def batch_contrast(
    query: Float[Tensor, "batch dim"], key: Float[Tensor, "batch dim"], temperature: float
) -> Float[Tensor, ""]:
    """Eq. 1 with algorithm 1's factor: 2 t * -log(exp(q . k+ / t) / sum_k exp(q . k / t)), the mean over this worker's
    queries; the keys are those of all workers, and no gradient reaches them."""
    every = distributed.gather(F.normalize(key.detach().float(), dim=1))
    place = distributed.rows(len(query)).start + torch.arange(len(query), device=every.device)
    logits = F.normalize(query.float(), dim=1) @ every.T / temperature
    return 2 * temperature * distributed.mean(F.cross_entropy(logits, place, reduction="none"))


class MoCoV3Method(Method):
    """A backbone, projector and predictor for queries, a slow backbone and projector for keys."""

    def __init__(self, settings: MoCoV3, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_backbone(model)
        sizes = [width, *[settings.hidden] * (settings.layers - 1), settings.projection]
        self.projector = mlp(sizes, last="plain_norm")
        last = "plain_norm" if settings.predictor_norm else "linear"
        self.predictor = mlp([settings.projection, settings.hidden, settings.projection], last=last, bias=False)
        if settings.freeze_patches:
            patches: Any = getattr(self.backbone, "patch_embed", None)
            if patches is None:
                raise ConfigError(f"method.freeze_patches: {model.name} has no patches: it is for ViTs")
            patches.requires_grad_(False)
        self.slow = copy.deepcopy(nn.Sequential(self.backbone, self.projector)).requires_grad_(False)

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        views = batch["images"].views
        embeddings = [self.projector(self.backbone(view)) for view in views]
        with torch.no_grad():
            keys = [self.slow(view) for view in views]
        first, second = (self.predictor(z) for z in embeddings)
        temperature = self.settings.temperature
        loss = batch_contrast(first, keys[1], temperature) + batch_contrast(second, keys[0], temperature)
        return Losses(loss, {"loss": loss.detach()}, embeddings[0].detach())

    def after_step(self, step: int, progress: float) -> None:
        momentum = cosine_momentum(self.settings.momentum, progress)
        update_ema(self.slow, nn.Sequential(self.backbone, self.projector), momentum, buffers=False)

    @property
    def result(self) -> nn.Module:
        return self.backbone
