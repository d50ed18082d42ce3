"""MoCo v2: a view finds its other view, made by a slow network, among many keys of past batches (arXiv:1911.05722)."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import queue_entropies
from sslscale.methods.method import Losses, Method
from sslscale.methods.moco_v2 import MoCoV2
from sslscale.nn.classifier import build_backbone
from sslscale.nn.ema import update_ema
from sslscale.nn.queue import Queue
from sslscale.settings.model import ModelConfig


class MoCoV2Method(Method):
    """A backbone and projector for queries, a slow copy of both for keys, and a queue of keys."""

    def __init__(self, settings: MoCoV2, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_backbone(model)
        self.projector = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, settings.projection)
        )
        self.slow = copy.deepcopy(nn.Sequential(self.backbone, self.projector)).requires_grad_(False)
        self.queue = Queue(settings.queue, settings.projection)

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        first, second = batch["images"].views
        embedding = self.projector(self.backbone(first))
        with torch.no_grad():  # in training mode, as in the authors' code
            key = F.normalize(self.slow(second).float(), dim=1)
        query = F.normalize(embedding.float(), dim=1)
        loss = distributed.mean(queue_entropies(query, key, self.queue.rows, self.settings.temperature))
        if self.training:
            self.queue.push(key)
        return Losses(loss, {"loss": loss.detach()}, embedding.detach())

    def after_step(self, step: int, progress: float) -> None:
        online = nn.Sequential(self.backbone, self.projector)
        update_ema(self.slow, online, self.settings.momentum, buffers=False)  # eq. 2

    @property
    def result(self) -> nn.Module:
        return self.backbone
