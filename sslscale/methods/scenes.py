"""What methods for images with objects have in common: a detector or a segmentation network, and its losses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.data.scene import IGNORED
from sslscale.methods.method import AveragedMethod, Picture
from sslscale.nn.detector import Detector, Segmenter, as_targets, build_detector, segmentation_loss
from sslscale.settings.kinds import Scenes
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


class SceneMethod(AveragedMethod):
    """A detector or a segmentation network for the classes of the objects, and its average."""

    network: Detector | Segmenter

    def __init__(self, settings: Scenes, model: ModelConfig, num_classes: int):
        super().__init__(settings, build_detector(settings.detector, model, num_classes))
        self.settings = settings

    def loss_of(self, batch: Batch) -> tuple[Float[Tensor, ""], Mapping[str, Float[Tensor, ""]]]:
        """The loss of annotated images, a mean over the images of all workers, and its parts."""
        views = batch.views[0]
        if isinstance(self.network, Segmenter):
            logits = self.network(views)
            loss = distributed.mean(segmentation_loss(logits, batch.semantic, IGNORED))
            with torch.no_grad():
                counted = batch.semantic != IGNORED
                right = ((logits.argmax(1) == batch.semantic) & counted).sum((1, 2))
            return loss, {"pixel_accuracy": distributed.mean(right / counted.sum((1, 2)).clamp(min=1))}
        masks = batch["masks"] if self.settings.detector.instances else None
        found: Mapping[str, Tensor] = self.network(views, as_targets(batch.boxes, batch.box_label, masks))
        count = len(views)
        parts = {name.removeprefix("loss_"): distributed.mean(value.expand(count)) for name, value in found.items()}
        return torch.stack(list(parts.values())).sum(), parts

    def pictures(self, batch: Mapping[str, Batch]) -> list[Picture]:
        """Some of the scenes as they are trained on."""
        return [
            Picture([view * 0.25 + 0.5 for view in part.views[0][:6]], f"{name}: scenes as they are augmented")
            for name, part in batch.items()
        ]
