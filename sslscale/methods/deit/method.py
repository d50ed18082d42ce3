"""DeiT: a vision transformer with a token that learns from a teacher (Touvron et al. 2021, arXiv:2012.12877)."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.errors import ConfigError
from sslscale.losses import distillation_loss, smooth_labels, soft_cross_entropy
from sslscale.methods.deit import DeiT
from sslscale.methods.method import Losses, TaughtMethod
from sslscale.nn.heads import MeanOfHeads
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


def teacher_loss(
    logits: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"], mode: str, temperature: float
) -> Float[Tensor, ""]:
    """Hard: cross-entropy to the teacher's class (eq. 3); soft: distillation (eq. 2). The mean over the batch."""
    if mode == "hard":
        return distributed.mean(F.cross_entropy(logits, teacher.argmax(1), reduction="none"))
    return distillation_loss(logits, teacher, temperature)


class DeiTMethod(TaughtMethod):
    """(1 - weight) cross-entropy of the class token's head + weight * the teacher's loss of the other's. A
    prediction is the mean of both heads' logits."""

    def __init__(self, settings: DeiT, model: ModelConfig, num_classes: int):
        super().__init__(settings, model, num_classes)
        self.settings = settings
        if not isinstance(self.network.head, MeanOfHeads):
            raise ConfigError(f"model.name: DeiT needs distillation_token: true, which {model.name} has not here")

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        labeled, settings = batch["labeled"], self.settings
        assert isinstance(self.network.head, MeanOfHeads)
        features = self.network.dropout(self.network.backbone(labeled.views[0]))
        of_class, of_teacher = (logits.float() for logits in self.network.head.each(features))
        target = smooth_labels(labeled.label, self.num_classes, settings.label_smoothing)
        supervised = distributed.mean(soft_cross_entropy(of_class, target))
        taught = teacher_loss(of_teacher, self.teacher_logits(labeled), settings.mode, settings.temperature)
        weight = settings.weight if settings.weight is not None else {"hard": 0.5, "soft": 0.1}[settings.mode]
        total = (1 - weight) * supervised + weight * taught
        accuracy = distributed.mean(((of_class + of_teacher).argmax(1) == labeled.label).float())
        shown = {"loss": total, "labeled_loss": supervised, "teacher_loss": taught, "train_accuracy": accuracy}
        return Losses(total, {name: value.detach() for name, value in shown.items()})
