"""FixMatch: learn for strong views what the weak ones say with confidence (Sohn et al. 2020, arXiv:2001.07685)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import hard_consistency
from sslscale.methods.fixmatch import FixMatch
from sslscale.methods.method import ClassifierMethod, Losses, PseudoLabels
from sslscale.nn.classifier import forward_together
from sslscale.nn.learned_augment import LearnedAugment
from sslscale.settings.model import ModelConfig
from sslscale.settings.train import TrainConfig
from sslscale.shapes import Float


def fixmatch_loss(
    weak: Float[Tensor, "batch classes"], strong: Float[Tensor, "batch classes"], threshold: float
) -> tuple[Float[Tensor, ""], PseudoLabels]:
    """Eq. 4: 1(max q >= threshold) H(argmax q, p_strong), the mean over the batch, with q = softmax(weak), through
    which no gradient flows."""
    confidence, label = weak.detach().softmax(1).max(1)
    kept = (confidence >= threshold).float()
    return hard_consistency(strong, label, kept), PseudoLabels(label, kept)


class FixMatchMethod(ClassifierMethod):
    """Cross-entropy of labelled images, and of strong views to the confident classes of the weak ones.

    With CTAugment the strong view is made here of a second weak one; a second view of the labelled images teaches it.
    """

    def __init__(self, settings: FixMatch, model: ModelConfig, num_classes: int):
        super().__init__(settings, model, num_classes)
        self.settings = settings
        self.learned = LearnedAugment() if settings.ctaugment else None

    def prepare(self, num_images: Mapping[str, int], config: TrainConfig, scratch: Path | None = None) -> None:
        super().prepare(num_images, config, scratch)
        if self.learned is not None:
            self.learned.prepare(config.image, config.seed)

    def draw(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """CTAugment's view of the unlabelled images, if it makes one."""
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        if self.learned is None:
            return {}
        if self.training:
            self.learned.learn(self.result, labeled.views[1], labeled.host_index, labeled.label, self.step_info.step)
        return {"strong": self.learned.strong(unlabeled.views[1], unlabeled.host_index, self.step_info.step)}

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        first, second = unlabeled.views
        second = drawn.get("strong", second)
        logits, weak, strong = forward_together(self.network, labeled.views[0], first, second)
        supervised = distributed.mean(F.cross_entropy(logits, labeled.label, reduction="none"))
        own, pseudo_labels = fixmatch_loss(weak, strong, self.settings.threshold)
        return self.losses(logits, labeled.label, supervised, self.settings.unlabeled_weight, own, pseudo_labels)
