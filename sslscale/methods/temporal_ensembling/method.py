"""Temporal ensembling: an image's prediction shall agree with the running mean of those of the epochs before (Laine and
Aila 2017, arXiv:1610.02242, algorithm 2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import gaussian_rise
from sslscale.methods.method import ClassifierMethod, Losses
from sslscale.methods.temporal_ensembling import TemporalEnsembling
from sslscale.nn.classifier import forward_together
from sslscale.nn.eager import eager
from sslscale.nn.memory import SampleMemory
from sslscale.settings.model import ModelConfig
from sslscale.settings.train import TrainConfig
from sslscale.shapes import Float


class TemporalEnsemblingMethod(ClassifierMethod):
    """Cross-entropy of labelled images; squares between an image's softmax and what was remembered of it.

    The memory holds Z <- momentum * Z + (1 - momentum) * z and the number of visits t; the target is
    Z / (1 - momentum^t), and an image that was never seen has none. It is written as images come: each comes once an
    epoch, so this is the paper's update at the epoch's end.
    """

    def __init__(self, settings: TemporalEnsembling, model: ModelConfig, num_classes: int):
        super().__init__(settings, model, num_classes)
        self.settings = settings
        self.memory = SampleMemory(0, num_classes + 1)

    def prepare(self, num_images: Mapping[str, int], config: TrainConfig, scratch: Path | None = None) -> None:
        self.memory = SampleMemory(num_images["unlabeled"], self.num_classes + 1, scratch)  # Z, number of visits

    def draw(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """What is remembered of the images."""
        unlabeled = batch["unlabeled"]
        return {"memory": self.memory.read(unlabeled.host_index, unlabeled.index.device)}

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        logits, guessed = forward_together(self.network, labeled.views[0], unlabeled.views[0])
        supervised = distributed.mean(F.cross_entropy(logits, labeled.label, reduction="none"))
        probs = guessed.softmax(1)
        past, visits = drawn["memory"].split([self.num_classes, 1], 1)
        known = (visits > 0).float()
        target = past / (1 - self.settings.momentum**visits).clamp(min=1e-8)
        squares = distributed.mean(known * (probs - target).square())
        weight = self.settings.unlabeled_weight * gaussian_rise(self.step_info.progress, self.settings.ramp)
        losses = self.losses(logits, labeled.label, supervised, weight, squares)
        if self.training:
            self._remember(unlabeled, probs.detach())
        return losses

    @eager
    def _remember(self, unlabeled: Batch, probs: Float[Tensor, "batch classes"]) -> None:
        numbers, probs = unlabeled.global_index, distributed.gather(probs)
        past, visits = self.memory.read(numbers, probs.device).split([self.num_classes, 1], 1)
        new = torch.lerp(probs, past, self.settings.momentum)
        self.memory.write(numbers, torch.cat([new, visits + 1], 1))
