"""Supervised training with label smoothing, the baseline and the first teacher."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import nn

from sslscale.data.loader import Batch
from sslscale.losses import smooth_labels, soft_cross_entropy
from sslscale.methods.method import Losses, Method
from sslscale.nn.classifier import build_classifier
from sslscale.nn.ema import update_ema, warm_momentum
from sslscale.recipes.model import ModelConfig
from sslscale.recipes.supervised import Supervised


class SupervisedMethod(Method):
    """Mean cross-entropy of the labelled batch."""

    def __init__(self, recipe: Supervised, model: ModelConfig, num_classes: int):
        super().__init__()
        self.recipe, self.num_classes = recipe, num_classes
        self.network = build_classifier(model, num_classes)
        self.average = copy.deepcopy(self.network).requires_grad_(False) if recipe.ema else None

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        labeled = batch["labeled"]
        assert labeled.label is not None
        logits = self.network(labeled.views[0])
        target = smooth_labels(labeled.label, self.num_classes, self.recipe.label_smoothing)
        loss = soft_cross_entropy(logits, target).mean()
        accuracy = (logits.detach().argmax(-1) == labeled.label).float().mean()
        return Losses(loss, {"loss": loss.detach(), "train_accuracy": accuracy})

    def after_step(self, step: int, progress: float) -> None:
        if self.average is not None:
            update_ema(self.average, self.network, warm_momentum(self.recipe.ema, step))

    @property
    def result(self) -> nn.Module:
        return self.network if self.average is None else self.average
