"""Pi-model: two noisy passes over an image shall agree (Laine and Aila 2017, arXiv:1610.02242, algorithm 1).

The paper divides the labelled sum by all images of a mixed batch; here the labelled mean is over labelled images, and
the squares are a mean over images and classes, so that the published weight of 100 keeps its meaning.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import gaussian_rise
from sslscale.methods.method import ClassifierMethod, Losses
from sslscale.methods.pi_model import PiModel
from sslscale.nn.classifier import forward_together
from sslscale.settings.model import ModelConfig


class PiModelMethod(ClassifierMethod):
    """Cross-entropy of labelled images; squares between the softmax of two views of unlabelled ones."""

    def __init__(self, settings: PiModel, model: ModelConfig, num_classes: int):
        super().__init__(settings, model, num_classes)
        self.settings = settings

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        logits, first, second = forward_together(self.network, labeled.views[0], *unlabeled.views)
        supervised = distributed.mean(F.cross_entropy(logits, labeled.label, reduction="none"))
        squares = distributed.mean((first.softmax(1) - second.softmax(1)).square())
        weight = self.settings.unlabeled_weight * gaussian_rise(self.step_info.progress, self.settings.ramp)
        return self.losses(logits, labeled.label, supervised, weight, squares)
