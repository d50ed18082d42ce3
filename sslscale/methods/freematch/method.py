"""FreeMatch: thresholds that follow what the network knows (Wang et al. 2023, arXiv:2205.07246)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import count_classes, hard_consistency
from sslscale.methods.freematch import FreeMatch
from sslscale.methods.method import ClassifierMethod, Losses, PseudoLabels
from sslscale.nn.classifier import forward_together
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


def fairness_loss(
    strong: Float[Tensor, "batch classes"],
    kept: Float[Tensor, " batch"],
    probability: Float[Tensor, " classes"],
    histogram: Float[Tensor, " classes"],
) -> Float[Tensor, ""]:
    """Eq. 11: sum_c SumNorm(p / h)_c log SumNorm(p_s / h_s)_c, to be minimised; p and h are running means.

    p_s and h_s are mean probabilities and class frequencies of the kept strong views of all workers; 0 if none is kept.
    A class that h_s does not hold has no share (as the authors' code has it).
    """
    probs = distributed.gather(strong.softmax(1))
    kept = distributed.gather(kept)
    count = kept.sum()
    some = count.clamp(min=1e-12)
    mean = (probs * kept[:, None]).sum(0) / some
    found = F.one_hot(probs.argmax(1), probs.shape[1]).float()
    shares = (found * kept[:, None]).sum(0) / some
    wanted = _normalized(probability, histogram)
    loss = (wanted * torch.log(_normalized(mean, shares) + 1e-12)).sum()
    return torch.where(count > 0, loss, 0.0)


def _normalized(values: Tensor, divisor: Tensor) -> Tensor:
    ratio = torch.where(divisor > 0, values / divisor.clamp(min=1e-30), 0.0)
    return ratio / ratio.sum().clamp(min=1e-30)


class FreeMatchMethod(ClassifierMethod):
    """Cross-entropy of labelled images; of strong views where the weak one reaches tau * p(c) / max p (eqs. 6 to 8),
    with running means tau of the confidence and p of the probabilities; and a term for fairness among classes."""

    confidence: Tensor
    probability: Tensor
    histogram: Tensor

    def __init__(self, settings: FreeMatch, model: ModelConfig, num_classes: int):
        super().__init__(settings, model, num_classes)
        self.settings = settings
        self.register_buffer("confidence", torch.tensor(1 / num_classes))
        self.register_buffer("probability", torch.full((num_classes,), 1 / num_classes))
        self.register_buffer("histogram", torch.full((num_classes,), 1 / num_classes))

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        settings = self.settings
        logits, weak, strong = forward_together(self.network, labeled.views[0], *unlabeled.views)
        supervised = distributed.mean(F.cross_entropy(logits, labeled.label, reduction="none"))
        probs = weak.detach().softmax(1)
        if self.training:
            self._follow(distributed.gather(probs))
        confidence, label = probs.max(1)
        kept = (confidence >= self.confidence * (self.probability / self.probability.max())[label]).float()
        own = hard_consistency(strong, label, kept)
        fairness = fairness_loss(strong, kept, self.probability, self.histogram)
        terms = settings.unlabeled_weight * own + settings.fairness_weight * fairness
        pseudo_labels = PseudoLabels(label, kept)
        shown = {"fairness": fairness, "mean_confidence": self.confidence}
        return self.losses(logits, labeled.label, supervised, 1.0, terms, pseudo_labels, shown)

    def _follow(self, probs: Float[Tensor, "batch classes"]) -> None:
        share = 1 - self.settings.momentum
        confidence, label = probs.max(1)
        counts = count_classes(label, self.num_classes)
        self.confidence = torch.lerp(self.confidence, confidence.mean(), share)  # eq. 5
        self.probability = torch.lerp(self.probability, probs.mean(0), share)
        self.histogram = torch.lerp(self.histogram, counts / counts.sum(), share)
