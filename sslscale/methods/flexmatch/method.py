"""FlexMatch: thresholds of classes that are learned late are low (Zhang et al. 2021, arXiv:2110.08263)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import count_classes, hard_consistency
from sslscale.methods.flexmatch import FlexMatch
from sslscale.methods.method import ClassifierMethod, Losses, PseudoLabels
from sslscale.nn.classifier import forward_together
from sslscale.settings.model import ModelConfig
from sslscale.settings.train import TrainConfig
from sslscale.shapes import Float, Int


def learning_status(selected: Int[Tensor, " images"], num_classes: int) -> Float[Tensor, " classes"]:
    """Eqs. 5, 6 and 11: sigma(c) / max(max_c sigma(c), the number of images in no class yet).

    `selected` is the class that each unlabelled image was last confidently of, or num_classes.
    """
    counts = count_classes(selected, num_classes + 1)
    return counts[:num_classes] / counts.max()


class FlexMatchMethod(ClassifierMethod):
    """Cross-entropy of labelled images, and of strong views to the class of the weak one where its probability reaches
    threshold * beta / (2 - beta) of that class (eq. 7 with the convex mapping of section 3.3).

    It remembers the class of each unlabelled image, 2 bytes an image, alike on every worker.
    """

    selected: Tensor

    def __init__(self, settings: FlexMatch, model: ModelConfig, num_classes: int):
        super().__init__(settings, model, num_classes)
        self.settings = settings
        self.register_buffer("selected", torch.zeros(0, dtype=torch.int16))

    def prepare(self, num_images: Mapping[str, int], config: TrainConfig, scratch: Path | None = None) -> None:
        self.selected = torch.full((num_images["unlabeled"],), self.num_classes, dtype=torch.int16)

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        logits, weak, strong = forward_together(self.network, labeled.views[0], *unlabeled.views)
        supervised = distributed.mean(F.cross_entropy(logits, labeled.label, reduction="none"))
        confidence, label = weak.detach().softmax(1).max(1)
        status = learning_status(self.selected, self.num_classes)[label]
        kept = (confidence >= self.settings.threshold * status / (2 - status)).float()
        if self.training:
            self._select(unlabeled.index, label, confidence >= self.settings.threshold)
        own = hard_consistency(strong, label, kept)
        pseudo_labels = PseudoLabels(label, kept)
        return self.losses(logits, labeled.label, supervised, self.settings.unlabeled_weight, own, pseudo_labels)

    def _select(self, index: Int[Tensor, " batch"], label: Int[Tensor, " batch"], sure: Tensor) -> None:
        index, label, sure = (distributed.gather(x) for x in (index, label, sure.to(torch.uint8)))
        # images that it is not sure of are written to a row that nobody reads: their number is the device's secret
        nowhere = len(self.selected)
        rows = torch.cat([self.selected, self.selected.new_zeros(1)])
        index = torch.where(sure.bool(), index, nowhere)
        self.selected = rows.index_copy_(0, index, label.to(rows.dtype))[:nowhere].clone()
