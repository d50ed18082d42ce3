"""Feature distillation: a network learns the features that another one has of each image, computed once."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.methods.feature_distillation import FeatureDistillation
from sslscale.methods.method import Losses, Method
from sslscale.nn.classifier import build_backbone
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


def feature_distance(
    predicted: Float[Tensor, "batch dim"], features: Float[Tensor, "batch dim"]
) -> Float[Tensor, " batch"]:
    """|p / |p| - f / |f||^2 = 2 - 2 cos(p, f), for each image: 0 to 4."""
    return 2 - 2 * F.cosine_similarity(predicted.float(), features.float(), dim=1)


class FeatureDistillationMethod(Method):
    """Mean squared distance between the features told and those of the other network, each scaled to length 1."""

    @classmethod
    def build(cls, settings: FeatureDistillation, model: ModelConfig, num_outputs: int) -> Method:
        """Make the method for features of so many dimensions."""
        return cls(settings, model, num_outputs)

    def __init__(self, settings: FeatureDistillation, model: ModelConfig, num_outputs: int):
        super().__init__()
        self.backbone, width = build_backbone(model)
        hidden = [nn.Linear(width, settings.hidden), nn.ReLU()] if settings.hidden else []
        self.head = nn.Sequential(*hidden, nn.Linear(settings.hidden or width, num_outputs))

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        images = batch["images"]
        loss = distributed.mean(feature_distance(self.head(self.backbone(images.views[0])), images.features))
        return Losses(loss, {"loss": loss.detach()})

    @property
    def result(self) -> nn.Module:
        return self.backbone
