"""A detector and a classifier on one backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.methods.detection_classification import DetectionClassification
from sslscale.methods.method import Losses
from sslscale.methods.scenes import SceneMethod
from sslscale.settings.model import ModelConfig


class DetectionClassificationMethod(SceneMethod):
    """The sum of the detector's loss and of the classifier's cross-entropy; the detector is what is kept."""

    settings: DetectionClassification

    def __init__(self, settings: DetectionClassification, model: ModelConfig, num_classes: int):
        super().__init__(settings, model, num_classes)
        backbone: Any = self.network.backbone
        self.classifier = nn.Linear(backbone.num_features, settings.classes)

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        own, images = self.settings, batch["classified"]
        detected, parts = self.loss_of(batch["labeled"])
        logits = self.classifier(self.network.features(images.views[0])).float()
        costs = F.cross_entropy(logits, images.label, reduction="none", label_smoothing=own.label_smoothing)
        classified = distributed.mean(costs)
        total = detected + own.weight * classified
        accuracy = distributed.mean((logits.argmax(1) == images.label).float())
        shown = {"loss": total, "labeled_loss": detected, "classifier_loss": classified, "train_accuracy": accuracy}
        return Losses(total, {name: value.detach() for name, value in {**shown, **parts}.items()})
