"""MixMatch: pseudo_labels, sharpen, mix (Berthelot et al. 2019, arXiv:1905.02249, algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale import distributed
from sslscale.data import rng
from sslscale.data.batch import Batch
from sslscale.data.mix import draw_partners, mix_parts
from sslscale.losses import linear_rise, sharpen, soft_cross_entropy
from sslscale.methods.method import ClassifierMethod, Losses, PseudoLabels
from sslscale.methods.mixmatch import MixMatch
from sslscale.nn.batch_norm import statistics_kept
from sslscale.nn.classifier import forward_together
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


def brier(logits: Float[Tensor, "batch classes"], target: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
    """Eq. 4: |softmax(logits) - target|^2 as a mean over images and classes."""
    return distributed.mean((logits.softmax(1) - target).square())


class MixMatchMethod(ClassifierMethod):
    """Cross-entropy of mixed labelled images, squares of mixed unlabelled ones, all in one pass.

    The authors interleave the batches so that batch norm sees a mixture in each; one pass over all has that by itself.
    """

    def __init__(self, settings: MixMatch, model: ModelConfig, num_classes: int):
        super().__init__(settings, model, num_classes)
        self.settings = settings

    def draw(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """What each image is mixed with, and how much of itself it keeps."""
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        sizes = [len(view) for view in (labeled.views[0], *unlabeled.views)]
        seed = rng.stream_seed(self.seed, f"mixup {self.step_info.step}")
        share, partner = draw_partners(sizes, self.settings.alpha, seed, labeled.index.device)
        return {"share": share, "partner": partner}

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        settings = self.settings
        target = self._guess(unlabeled.views)
        truth = F.one_hot(labeled.label, self.num_classes).to(target)
        parts = [(labeled.views[0], truth), *((view, target) for view in unlabeled.views)]
        mixed = mix_parts(parts, drawn["share"].to(target.dtype), drawn["partner"])
        logits, *others = forward_together(self.network, *(images for images, _ in mixed))
        supervised = distributed.mean(soft_cross_entropy(logits, mixed[0][1]))
        own = brier(torch.cat(others), torch.cat([labels for _, labels in mixed[1:]]))
        weight = settings.unlabeled_weight * linear_rise(self.step_info.progress, 0.0, settings.ramp)
        pseudo_labels = PseudoLabels(target.argmax(1), torch.ones_like(target[:, 0]))
        return self.losses(logits, labeled.label, supervised, weight, own, pseudo_labels)

    @torch.no_grad()
    def _guess(self, views: tuple[Float[Tensor, "batch channels h w"], ...]) -> Float[Tensor, "batch classes"]:
        """Eqs. 6 and 7: the mean prediction for the views, sharpened."""
        with statistics_kept(self.network):
            found = forward_together(self.network, *views)
        return sharpen(torch.stack([logits.softmax(1) for logits in found]).mean(0), self.settings.temperature)
