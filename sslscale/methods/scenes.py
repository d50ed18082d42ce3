"""What methods for images with objects have in common: a detector or a segmentation network, and its losses."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.data.scene import IGNORED
from sslscale.methods.method import Method, Picture
from sslscale.nn.detector import Segmenter, as_targets, build_detector, segmentation_loss
from sslscale.nn.ema import update_ema, warm_momentum
from sslscale.settings.method import Scenes
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


class SceneMethod(Method):
    """A detector and, if `ema` is above 0, a running average of its weights, then the result."""

    @classmethod
    def build(cls, settings: Any, model: ModelConfig, num_outputs: int) -> Method:
        """Make the method for so many classes of objects."""
        return cls(settings, model, num_outputs)

    def __init__(self, settings: Scenes, model: ModelConfig, num_classes: int):
        super().__init__()
        self.settings = settings
        self.network = build_detector(settings.detector, model, num_classes)
        self.average = copy.deepcopy(self.network).requires_grad_(False) if settings.ema else None

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

    def after_step(self, step: int, progress: float) -> None:
        if self.average is not None:
            update_ema(self.average, self.network, warm_momentum(self.settings.ema, step), buffers=True)

    def pictures(self, batch: Mapping[str, Batch]) -> list[Picture]:
        """Some of the scenes as they are trained on."""
        return [
            Picture([view * 0.25 + 0.5 for view in part.views[0][:6]], f"{name}: scenes as they are augmented")
            for name, part in batch.items()
        ]

    @property
    def result(self) -> nn.Module:
        return self.network if self.average is None else self.average
