"""Knowledge distillation: from a teacher (Hinton et al. 2015, arXiv:1503.02531) or from none (Yuan et al. 2020,
arXiv:1909.11723)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import distillation_loss
from sslscale.methods.knowledge_distillation import KnowledgeDistillation
from sslscale.methods.method import Losses, TaughtMethod
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float, Int


def virtual_teacher_loss(
    logits: Float[Tensor, "batch classes"], label: Int[Tensor, " batch"], correct: float, temperature: float
) -> Float[Tensor, ""]:
    """Tf-KD's eqs. 9 and 10: KL(softmax(p_d / T) || softmax(logits / T)), where p_d is `correct` for the label and the
    same for all others."""
    classes = logits.shape[1]
    probs = torch.full_like(logits, (1 - correct) / (classes - 1)).scatter(1, label[:, None], correct)
    target = F.log_softmax(probs / temperature, 1)
    student = F.log_softmax(logits / temperature, 1)
    return distributed.mean((target.exp() * (target - student)).sum(1))


class KnowledgeDistillationMethod(TaughtMethod):
    """(1 - alpha) cross-entropy to the labels + alpha * distillation."""

    def __init__(self, settings: KnowledgeDistillation, model: ModelConfig, num_classes: int):
        super().__init__(settings, model, num_classes)
        self.settings = settings

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        labeled, settings = batch["labeled"], self.settings
        logits = self.network(labeled.views[0]).float()
        supervised = distributed.mean(F.cross_entropy(logits, labeled.label, reduction="none"))
        if settings.virtual:
            taught = virtual_teacher_loss(logits, labeled.label, settings.virtual_correct, settings.temperature)
        else:
            taught = distillation_loss(logits, self.teacher_logits(labeled), settings.temperature)
        total = (1 - settings.alpha) * supervised + settings.alpha * taught
        accuracy = distributed.mean((logits.argmax(1) == labeled.label).float())
        shown = {"loss": total, "labeled_loss": supervised, "teacher_loss": taught, "train_accuracy": accuracy}
        return Losses(total, {name: value.detach() for name, value in shown.items()})
