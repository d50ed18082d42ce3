"""Mean Teacher: agree with the running average of one's own weights (Tarvainen and Valpola 2017, arXiv:1703.01780)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import gaussian_rise
from sslscale.methods.mean_teacher import MeanTeacher
from sslscale.methods.method import ClassifierMethod, Losses
from sslscale.nn.classifier import forward_together
from sslscale.settings.model import ModelConfig


class MeanTeacherMethod(ClassifierMethod):
    """Cross-entropy of labelled images; squares between the softmax of network and teacher, a mean over images and
    classes (eq. in section 2, as the authors' code for CIFAR-10). The teacher, in training mode too, is the result."""

    average_sees_training_mode = True

    def __init__(self, settings: MeanTeacher, model: ModelConfig, num_classes: int):
        super().__init__(settings, model, num_classes)
        self.settings = settings

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        assert self.average is not None
        first, second = unlabeled.views
        logits, student = forward_together(self.network, labeled.views[0], first)
        with torch.no_grad():
            teacher = self.average(second).float()
        supervised = distributed.mean(F.cross_entropy(logits, labeled.label, reduction="none"))
        squares = distributed.mean((student.softmax(1) - teacher.softmax(1)).square())
        weight = self.settings.unlabeled_weight * gaussian_rise(self.step_info.progress, self.settings.ramp)
        return self.losses(logits, labeled.label, supervised, weight, squares)

    def momentum(self, step: int, progress: float) -> float:
        """min(1 - 1 / (step + 1), alpha): of few steps the true mean."""
        alpha = self.settings.ema if progress >= self.settings.ramp else self.settings.ema_ramp
        return min(1 - 1 / (step + 1), alpha)
