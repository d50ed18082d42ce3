"""Joint training: human labels and pseudo-labels at once, with losses of one size (Zoph et al. 2020, arXiv:2006.06882).

L = (L_h + alpha (mean L_h / mean L_p) L_p) / (1 + alpha), with running means of both losses: pseudo-labels of an easy
teacher have a small loss, which would else hardly count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import of_one_size, running_means, smooth_labels, soft_cross_entropy
from sslscale.methods.joint_training import JointTraining
from sslscale.methods.method import ClassifierMethod, Losses
from sslscale.nn.classifier import forward_together
from sslscale.settings.model import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor


class JointTrainingMethod(ClassifierMethod):
    """Cross-entropy to labels and to the teacher's distributions, in one batch; the ratio has no gradient."""

    means: Tensor

    def __init__(self, settings: JointTraining, model: ModelConfig, num_classes: int):
        super().__init__(settings, model, num_classes)
        self.settings = settings
        self.register_buffer("means", torch.zeros(2))  # of L_h and L_p; 0 before the first step

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        labeled, pseudo, settings = batch["labeled"], batch["pseudo"], self.settings
        logits, guessed = forward_together(self.network, labeled.views[0], pseudo.views[0])
        truth = smooth_labels(labeled.label, self.num_classes, settings.label_smoothing)
        target = pseudo.soft_label
        if not settings.soft_labels:
            target = F.one_hot(target.argmax(1), self.num_classes).float()
        supervised = distributed.mean(soft_cross_entropy(logits, truth))
        taught = distributed.mean(soft_cross_entropy(guessed, target))
        if self.training:
            self.means = running_means(self.means, torch.stack([supervised, taught]), settings.momentum)
        total, ratio = of_one_size(supervised, taught, self.means, settings.weight)
        agreement = distributed.mean((guessed.argmax(1) == pseudo.soft_label.argmax(1)).float())
        shown = {
            "loss": total,
            "labeled_loss": supervised,
            "pseudo_loss": taught,
            "ratio": ratio,
            "train_accuracy": distributed.mean((logits.argmax(1) == labeled.label).float()),
            "pseudo_agreement": agreement,
        }
        return Losses(total, {name: value.detach() for name, value in shown.items()})
