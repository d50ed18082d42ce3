"""Supervised training with label smoothing, the baseline and the first teacher."""

from __future__ import annotations

from collections.abc import Mapping

from sslscale.data.loader import Batch
from sslscale.losses import smooth_labels, soft_cross_entropy
from sslscale.methods.method import ClassifierMethod, Losses
from sslscale.recipes.model import ModelConfig
from sslscale.recipes.supervised import Supervised


class SupervisedMethod(ClassifierMethod):
    """Mean cross-entropy of the labelled batch."""

    def __init__(self, recipe: Supervised, model: ModelConfig, num_classes: int):
        super().__init__(recipe, model, num_classes)
        self.recipe = recipe

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        labeled = batch["labeled"]
        assert labeled.label is not None
        logits = self.network(labeled.views[0])
        target = smooth_labels(labeled.label, self.num_classes, self.recipe.label_smoothing)
        loss = soft_cross_entropy(logits, target).mean()
        accuracy = (logits.detach().argmax(-1) == labeled.label).float().mean()
        return Losses(loss, {"loss": loss.detach(), "train_accuracy": accuracy})
