"""Pseudo-Label: the class that the network finds most probable is learned as if it were true (Lee 2013)."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import linear_rise
from sslscale.methods.method import ClassifierMethod, Losses, PseudoLabels
from sslscale.methods.pseudo_label import PseudoLabel
from sslscale.nn.classifier import forward_together
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


def pseudo_label_loss(
    logits: Float[Tensor, "batch classes"], threshold: float
) -> tuple[Float[Tensor, ""], PseudoLabels]:
    """Eq. 15's second term: the cross-entropy to the most probable class, 0 below the threshold; the batch's mean."""
    confidence, label = logits.detach().softmax(1).max(1)
    kept = (confidence >= threshold).float()
    return distributed.mean(kept * F.cross_entropy(logits, label, reduction="none")), PseudoLabels(label, kept)


class PseudoLabelMethod(ClassifierMethod):
    """Cross-entropy of labelled images, and of unlabelled ones to what the network itself takes them for."""

    def __init__(self, settings: PseudoLabel, model: ModelConfig, num_classes: int):
        super().__init__(settings, model, num_classes)
        self.settings = settings

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        logits, guessed = forward_together(self.network, labeled.views[0], unlabeled.views[0])
        supervised = distributed.mean(F.cross_entropy(logits, labeled.label, reduction="none"))
        weight = self.settings.unlabeled_weight * linear_rise(self.step_info.progress, *self.settings.ramp)  # eq. 16
        own, pseudo_labels = pseudo_label_loss(guessed, self.settings.threshold)
        return self.losses(logits, labeled.label, supervised, weight, own, pseudo_labels)
