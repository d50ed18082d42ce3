"""Dash: unlabelled images count while their loss is below a bound that falls (Xu et al. 2021, arXiv:2109.00650)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import soft_cross_entropy
from sslscale.methods.dash import Dash
from sslscale.methods.method import ClassifierMethod, Losses, PseudoLabels
from sslscale.nn.classifier import forward_together
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


def bound(settings: Dash, rho: Float[Tensor, ""], progress: float) -> Float[Tensor, ""]:
    """Eq. 4: C gamma^-(t-1) rho, no lower than rho_min; t - 1 counts the periods since the warm-up."""
    periods = int((progress - settings.warmup) / settings.every)
    return (settings.c * settings.gamma**-periods * rho).clamp(min=settings.rho_min)


class DashMethod(ClassifierMethod):
    """Warm-up on labels alone; then FixMatch for images whose weak view has a small loss against its own class.

    rho, the loss after the warm-up, is the mean labelled loss over the warm-up's last quarter: the authors evaluate all
    labelled images once instead, which a stream that never ends cannot.
    """

    losses_seen: Tensor

    def __init__(self, settings: Dash, model: ModelConfig, num_classes: int):
        super().__init__(settings, model, num_classes)
        self.settings = settings
        self.register_buffer("losses_seen", torch.zeros(2, dtype=torch.float64))  # sum and count

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        settings = self.settings
        logits, weak, strong = forward_together(self.network, labeled.views[0], *unlabeled.views)
        supervised = distributed.mean(F.cross_entropy(logits, labeled.label, reduction="none"))
        total, count = self.losses_seen.clone()
        if self.training and 0.75 * settings.warmup <= self.step_info.progress < settings.warmup:
            seen = torch.stack([supervised.detach().double(), torch.ones_like(supervised, dtype=torch.float64)])
            self.losses_seen += distributed.all_sum(seen)
        warm = self.step_info.progress >= settings.warmup
        # without a step in the warm-up's last quarter: the loss of guessing
        first = torch.where(count > 0, total / count.clamp(min=1), math.log(self.num_classes))
        rho = bound(settings, first, self.step_info.progress)
        label = weak.detach().argmax(1)
        kept = ((F.cross_entropy(weak.detach(), label, reduction="none") <= rho) & warm).float()
        hard = F.one_hot(label, self.num_classes).float()
        target = torch.where(rho <= settings.rho_min, hard, (weak.detach() / settings.temperature).softmax(1))
        own = distributed.mean(kept * soft_cross_entropy(strong, target))
        pseudo_labels = PseudoLabels(label, kept)
        shown = {"rho": rho.to(supervised.dtype)}
        return self.losses(logits, labeled.label, supervised, settings.unlabeled_weight, own, pseudo_labels, shown)
