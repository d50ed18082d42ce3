"""Self-training for detection: annotations and a teacher's boxes at once, with losses of one size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from sslscale.data.batch import Batch
from sslscale.losses import of_one_size, running_means
from sslscale.methods.detection_self_training import DetectionSelfTraining
from sslscale.methods.method import Losses
from sslscale.methods.scenes import SceneMethod
from sslscale.settings.model import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor


class DetectionSelfTrainingMethod(SceneMethod):
    """A detector that learns from annotations and from what a teacher found."""

    settings: DetectionSelfTraining
    means: Tensor

    def __init__(self, settings: DetectionSelfTraining, model: ModelConfig, num_classes: int):
        super().__init__(settings, model, num_classes)
        self.register_buffer("means", torch.zeros(2))  # of L_h and L_p; 0 before the first step

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        settings = self.settings
        supervised, parts = self.loss_of(batch["labeled"])
        taught, _ = self.loss_of(batch["pseudo"])
        if self.training:
            self.means = running_means(self.means, torch.stack([supervised, taught]), settings.momentum)
        total, ratio = of_one_size(supervised, taught, self.means, settings.weight)
        shown = {"loss": total, "labeled_loss": supervised, "pseudo_loss": taught, "ratio": ratio, **parts}
        return Losses(total, {name: value.detach() for name, value in shown.items()})
