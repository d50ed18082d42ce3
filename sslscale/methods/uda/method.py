"""Unsupervised data augmentation (Xie et al. 2020, arXiv:1904.12848)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.data.transfer import to_device
from sslscale.losses import mean_over_kept
from sslscale.methods.method import ClassifierMethod, Losses, PseudoLabels
from sslscale.methods.uda import UDA
from sslscale.nn.classifier import forward_together
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


def uda_loss(
    weak: Float[Tensor, "batch classes"],
    strong: Float[Tensor, "batch classes"],
    temperature: float,
    threshold: float,
) -> tuple[Float[Tensor, ""], PseudoLabels]:
    """KL(softmax(weak / temperature) || softmax(strong)) where softmax(weak) reaches the threshold, a mean over the
    batch (sections 2.2 and 3.2); no gradient reaches the weak view."""
    confidence, label = weak.detach().softmax(1).max(1)
    kept = (confidence >= threshold).float()
    target = F.log_softmax(weak.detach() / temperature, 1)
    distance = (target.exp() * (target - F.log_softmax(strong, 1))).sum(1)
    return distributed.mean(kept * distance), PseudoLabels(label, kept)


def annealing_bound(schedule: str, progress: float, num_classes: int) -> float:
    """Training signal annealing (section 2.3): the probability of its class up to which a labelled image counts."""
    share = {
        "none": 1.0,
        "log": 1 - math.exp(-5 * progress),
        "linear": progress,
        "exp": math.exp(5 * (progress - 1)),
    }[schedule]
    return share * (1 - 1 / num_classes) + 1 / num_classes


class UDAMethod(ClassifierMethod):
    """Cross-entropy of labelled images that are not known too well yet; consistency of unlabelled ones."""

    def __init__(self, settings: UDA, model: ModelConfig, num_classes: int):
        super().__init__(settings, model, num_classes)
        self.settings = settings

    def draw(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """Up to which probability a labelled image counts by now."""
        bound = torch.tensor(annealing_bound(self.settings.tsa, self.step_info.progress, self.num_classes))
        return {"bound": to_device(bound, batch["labeled"].index.device)}

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        logits, weak, strong = forward_together(self.network, labeled.views[0], *unlabeled.views)
        known = logits.detach().softmax(1).gather(1, labeled.label[:, None]).squeeze(1)
        counts = torch.ones_like(known) if self.settings.tsa == "none" else (known <= drawn["bound"]).float()
        supervised = mean_over_kept(F.cross_entropy(logits, labeled.label, reduction="none"), counts)
        own, pseudo_labels = uda_loss(weak, strong, self.settings.temperature, self.settings.threshold)
        return self.losses(logits, labeled.label, supervised, self.settings.unlabeled_weight, own, pseudo_labels)
