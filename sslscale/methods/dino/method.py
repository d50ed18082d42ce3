"""DINO: a student matches the sharpened, centred outputs of its own moving average (arXiv:2104.14294)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import cross_view_entropy, warm_temperature
from sslscale.methods.dino import DINO
from sslscale.methods.method import Losses, Method
from sslscale.nn.classifier import build_backbone
from sslscale.nn.ema import cosine_momentum, update_ema
from sslscale.nn.heads import PrototypeHead
from sslscale.nn.multi_crop import encode_views
from sslscale.nn.sinkhorn import usage_entropy
from sslscale.settings.model import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor


class DINOMethod(Method):
    """A student of backbone and head, and a teacher of both, whose backbone is kept in the end."""

    center: Tensor

    def __init__(self, settings: DINO, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_backbone(model)
        self.head = PrototypeHead(width, settings.hidden, settings.bottleneck, settings.prototypes, norm=settings.norm)
        still, _ = build_backbone(dataclasses.replace(model, survival=1.0))  # the teacher drops no path
        head = PrototypeHead(width, settings.hidden, settings.bottleneck, settings.prototypes, norm=settings.norm)
        still.load_state_dict(self.backbone.state_dict())
        head.load_state_dict(self.head.state_dict())
        self.teacher = nn.Sequential(still, head).requires_grad_(False)
        self.register_buffer("center", torch.zeros(settings.prototypes))

    @property
    def frozen(self) -> tuple[Tensor, ...]:
        return (self.head.last.weight,) if self.step_info.epoch < self.settings.freeze_last else ()

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        views, settings = batch["images"].views, self.settings
        temperature = warm_temperature(
            settings.teacher_temperature,
            settings.final_teacher_temperature,
            settings.warmup_epochs,
            self.step_info.epoch,
        )
        with torch.no_grad():
            outputs = self.teacher(torch.cat(views[:2])).float()
            targets = ((outputs - self.center) / temperature).softmax(1).chunk(2)
        features = encode_views(self.backbone, views)
        student = self.head(torch.cat(features)).chunk(len(views))
        loss = cross_view_entropy(student, targets, settings.student_temperature)
        if self.training:  # eq. 4
            mean = distributed.all_sum(outputs.sum(0)) / distributed.total(len(outputs))
            self.center.lerp_(mean, 1 - settings.center_momentum)
        entropy = distributed.mean(torch.special.entr(targets[0]).sum(1))
        parts = {
            "loss": loss.detach(),
            "center_norm": self.center.norm(),
            "teacher_entropy": entropy,
            "prototype_entropy": usage_entropy(targets[0]),
        }
        return Losses(loss, parts, features[0].detach())

    def after_step(self, step: int, progress: float) -> None:
        momentum = cosine_momentum(self.settings.momentum, progress)
        update_ema(self.teacher, nn.Sequential(self.backbone, self.head), momentum, buffers=False)

    @property
    def result(self) -> nn.Module:
        return self.teacher[0]
