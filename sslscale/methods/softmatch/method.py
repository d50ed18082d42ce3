"""SoftMatch: every unlabelled image counts, by how confident its prediction is (Chen et al. 2023, arXiv:2301.10921)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import hard_consistency
from sslscale.methods.method import ClassifierMethod, Losses, PseudoLabels
from sslscale.methods.softmatch import SoftMatch
from sslscale.nn.classifier import forward_together
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


def gaussian_weight(
    confidence: Float[Tensor, " batch"], mean: Float[Tensor, ""], variance: Float[Tensor, ""], sigmas: float
) -> Float[Tensor, " batch"]:
    """Eq. 6: exp(-(confidence - mean)^2 / (2 variance / sigmas^2)) below the mean, 1 above it."""
    below = (confidence - mean).clamp(max=0)
    return torch.exp(-below.square() / (2 * variance / sigmas**2))


class SoftMatchMethod(ClassifierMethod):
    """Cross-entropy of labelled images, and of strong views to the class of the weak one, weighed by the confidence of
    the aligned prediction (eqs. 7 to 9). The class itself is that of the prediction as it is, as in the authors' code.
    """

    mean: Tensor
    variance: Tensor
    probability: Tensor

    def __init__(self, settings: SoftMatch, model: ModelConfig, num_classes: int):
        super().__init__(settings, model, num_classes)
        self.settings = settings
        self.register_buffer("mean", torch.tensor(1 / num_classes))
        self.register_buffer("variance", torch.tensor(1.0))
        self.register_buffer("probability", torch.full((num_classes,), 1 / num_classes))

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        logits, weak, strong = forward_together(self.network, labeled.views[0], *unlabeled.views)
        supervised = distributed.mean(F.cross_entropy(logits, labeled.label, reduction="none"))
        probs = weak.detach().softmax(1)
        every = distributed.gather(probs)
        share = 1 - self.settings.momentum
        if self.training:
            self.probability = torch.lerp(self.probability, every.mean(0), share)
        every = self._aligned(every)
        if self.training:
            best = every.amax(1)
            self.mean = torch.lerp(self.mean, best.mean(), share)  # eq. 8
            self.variance = torch.lerp(self.variance, best.var(), share)
        kept = gaussian_weight(self._aligned(probs).amax(1), self.mean, self.variance, self.settings.sigmas)
        label = probs.argmax(1)
        own = hard_consistency(strong, label, kept)
        pseudo_labels = PseudoLabels(label, kept)
        return self.losses(
            logits,
            labeled.label,
            supervised,
            self.settings.unlabeled_weight,
            own,
            pseudo_labels,
            {"mean_confidence": self.mean},
        )

    def _aligned(self, probs: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
        """Eq. 9: p / running mean of p, normalised."""
        ratio = probs / (self.probability + 1e-6)
        return ratio / ratio.sum(1, keepdim=True)
