"""Noisy Student's student (Xie, Luong, Hovy & Le 2020, arXiv:1911.04252, algorithm 1 and section 4.1).

Labelled and pseudo-labelled images are concatenated into one forward pass, so that batch norm sees both, and their
cross-entropies are averaged over the whole batch. The authors' code divides the same sum by the number of labelled
images alone (main.py), which scales the loss by 1 + unlabeled_ratio; the paper's average is taken here, so that a
learning rate keeps its meaning when the ratio changes.

The teacher has no noise: it scored the images beforehand, in eval mode and without augmentation.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import sharpen, smooth_labels, soft_cross_entropy
from sslscale.methods.method import ClassifierMethod, Losses
from sslscale.methods.noisy_student import NoisyStudent
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


def student_loss(
    labeled: Float[Tensor, " labeled"], pseudo: Float[Tensor, " pseudo"], weight: float | None
) -> Float[Tensor, ""]:
    """Weighted mean of the two mean cross-entropies: (L + w U) / (1 + w).

    With w = None, w is the ratio of the two batches, which makes it the plain mean over all images.
    """
    weight = len(pseudo) / len(labeled) if weight is None else weight
    return (distributed.mean(labeled) + weight * distributed.mean(pseudo)) / (1 + weight)


class NoisyStudentMethod(ClassifierMethod):
    """Cross-entropy to labels and to the teacher's distributions, in one batch."""

    def __init__(self, settings: NoisyStudent, model: ModelConfig, num_classes: int):
        super().__init__(settings, model, num_classes)
        self.settings = settings

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        if not self.settings.labels:
            return self._alone(batch["pseudo"])
        labeled, pseudo = batch["labeled"], batch["pseudo"]
        logits = self.network(torch.cat([labeled.views[0], pseudo.views[0]]))
        logits_labeled, logits_pseudo = logits.split([len(labeled.index), len(pseudo.index)])
        target = smooth_labels(labeled.label, self.num_classes, self.settings.label_smoothing)
        supervised = soft_cross_entropy(logits_labeled, target)
        distilled = soft_cross_entropy(logits_pseudo, self.pseudo_target(pseudo.soft_label))
        total = student_loss(supervised, distilled, self.settings.unlabeled_weight)
        with torch.no_grad():
            agreement = distributed.mean((logits_pseudo.argmax(-1) == pseudo.soft_label.argmax(-1)).float())
            accuracy = distributed.mean((logits_labeled.argmax(-1) == labeled.label).float())
        parts = {
            "loss": total,
            "labeled_loss": distributed.mean(supervised),
            "pseudo_loss": distributed.mean(distilled),
            "train_accuracy": accuracy,
            "pseudo_agreement": agreement,
        }
        return Losses(total, {name: value.detach() for name, value in parts.items()})

    def _alone(self, pseudo: Batch) -> Losses:
        logits = self.network(pseudo.views[0])
        loss = distributed.mean(soft_cross_entropy(logits, self.pseudo_target(pseudo.soft_label)))
        agreement = distributed.mean((logits.argmax(-1) == pseudo.soft_label.argmax(-1)).float())
        return Losses(loss, {"loss": loss.detach(), "pseudo_agreement": agreement})

    def pseudo_target(self, soft: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
        """The distribution that the student learns: the teacher's, or its hard label smoothed like a true one."""
        if self.settings.soft_labels:
            return sharpen(soft, self.settings.temperature)
        return smooth_labels(soft.argmax(-1), self.num_classes, self.settings.label_smoothing)
