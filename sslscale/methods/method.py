"""What the training loop knows of a method. The only base class of the project."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sslscale.data.loader import Batch
from sslscale.methods.settings import MethodSettings
from sslscale.nn.classifier import build_classifier
from sslscale.nn.ema import update_ema, warm_momentum
from sslscale.settings.model import ModelConfig
from sslscale.settings.train import TrainConfig

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class Guess:
    """What a method took unlabelled images for, detached; the log tells how often it is right.

    `kept` says how much each counted, from 0 to 1.
    """

    label: Int[Tensor, " batch"]
    kept: Float[Tensor, " batch"]


@dataclass(frozen=True)
class Losses:
    """What is minimised, and its parts for the log (detached, under their own names)."""

    total: Float[Tensor, ""]
    parts: Mapping[str, Float[Tensor, ""]]
    embedding: Float[Tensor, "batch dim"] | None = None  # of this worker's images, detached: shows a collapse
    guess: Guess | None = None  # of this worker's unlabelled images


@dataclass(frozen=True)
class Moment:
    """When a step happens: `step` of them are done, `progress` of the training (0 to 1), `epoch` passes over the images
    of the first stream."""

    step: int
    progress: float
    epoch: float


class Method(nn.Module):
    """Owns its networks. `forward` turns the batches of its streams into losses; it is called through the engine.

    Subclasses are made as `cls(recipe, model, num_outputs)`, the number of classes of what they learn or the
    width of its features, and name the network that is worth keeping.
    """

    constant_lr: tuple[str, ...] = ()  # prefixes of the weights whose learning rate follows no schedule
    now = Moment(0, 0.0, 0.0)  # of the step under way
    seed = 0  # of the training

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        return self.step(batch, self.drawn(batch))

    def drawn(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """What `step` needs that follows from the step's number or from the images': drawn on the host, and sent to the
        device. It is not compiled."""
        del batch
        return {}

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        """The losses of a batch. With `compile` this is one graph, whatever the step: it reads no number of the host
        that changes with it. A method that draws nothing may define `forward` instead."""
        raise TypeError(f"{type(self).__name__} has no step")

    def prepare(self, num_images: Mapping[str, int], config: TrainConfig, scratch: Path | None = None) -> None:
        """Make what depends on each stream's number of images, or on the training; called once, before any step.

        `scratch` is this worker's folder for what is too large for memory.
        """
        self.seed = config.seed

    def before_step(self, now: Moment) -> None:
        """Hear what time it is."""
        self.now = now

    @property
    def frozen(self) -> tuple[Tensor, ...]:
        """The weights that must stay as they are in this step, whatever their gradient."""
        return ()

    @property
    def edited(self) -> tuple[Tensor, ...]:
        """The trainable weights that `before_step` sets by itself: an engine may keep another copy of them."""
        return ()

    def after_step(self, step: int, progress: float) -> None:
        """Update what is not learned by gradient (teachers, queues); `progress` runs from 0 to 1."""

    @property
    def result(self) -> nn.Module:
        """The network that the checkpoint holds."""
        raise TypeError(f"{type(self).__name__} names no result")


class ClassifierMethod(Method):
    """Owns a classifier and, where the recipe's `ema` is above 0, the running average of its weights, which is then
    the result. `learns_itself` tells that the average sees images in training mode: it keeps its own batch statistics.
    """

    learns_itself = False

    def __init__(self, recipe: MethodSettings, model: ModelConfig, num_classes: int):
        super().__init__()
        self.num_classes = num_classes
        self.network = build_classifier(model, num_classes)
        self._momentum: float = getattr(recipe, "ema", 0.0)
        self.average = copy.deepcopy(self.network).requires_grad_(False) if self._momentum else None

    @staticmethod
    def losses(
        logits: Float[Tensor, "batch classes"],
        label: Int[Tensor, " batch"],
        supervised: Float[Tensor, ""],
        weight: float,
        unlabeled: Float[Tensor, ""],
        guess: Guess | None = None,
        parts: Mapping[str, Float[Tensor, ""]] | None = None,
    ) -> Losses:
        """supervised + weight * unlabeled, with what the log shows of it and of `parts`."""
        total = supervised + weight * unlabeled
        shown = {"loss": total, "labeled_loss": supervised, "unlabeled_loss": unlabeled, **(parts or {})}
        shown["train_accuracy"] = (logits.argmax(1) == label).float().mean()
        if guess is not None:
            shown["kept"] = guess.kept.mean()
        return Losses(total, {name: value.detach() for name, value in shown.items()}, guess=guess)

    def momentum(self, step: int, progress: float) -> float:
        """The share of the old average that stays after this step."""
        del progress
        return warm_momentum(self._momentum, step)

    def after_step(self, step: int, progress: float) -> None:
        if self.average is not None:
            update_ema(self.average, self.network, self.momentum(step, progress), buffers=not self.learns_itself)

    @property
    def result(self) -> nn.Module:
        return self.network if self.average is None else self.average


class TaughtMethod(ClassifierMethod):
    """A classifier that learns from another network, frozen, or from the logits that one gave of every image."""

    def __init__(self, recipe: MethodSettings, model: ModelConfig, num_classes: int):
        super().__init__(recipe, model, num_classes)
        self.teacher: nn.Module | None = None

    def teach(self, teacher: nn.Module) -> None:
        """Take a teacher of the same classes, which sees the student's views; its weights stay."""
        self.teacher = teacher.requires_grad_(False)

    def teacher_logits(self, batch: Batch) -> Float[Tensor, "batch classes"]:
        """What the teacher says of these images."""
        if batch.features is not None:
            return batch.features
        assert self.teacher is not None
        with torch.no_grad():
            return self.teacher.eval()(batch.views[0]).float()


def build_method(recipe: MethodSettings, model: ModelConfig, num_outputs: int) -> Method:
    """Make the method of these settings: its code stands beside them, or in the module `method` of their package."""
    module = sys.modules[type(recipe).__module__]
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{module.__name__}.method")
    own = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    (cls,) = [c for c in own if issubclass(c, Method)]
    return cls(recipe, model, num_outputs)
