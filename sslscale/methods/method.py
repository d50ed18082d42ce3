"""What the training loop knows of a method. The only base class of the project."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.nn.classifier import build_classifier
from sslscale.nn.ema import update_ema, warm_momentum
from sslscale.settings.method import MethodSettings
from sslscale.settings.model import ModelConfig
from sslscale.settings.train import TrainConfig
from sslscale.shapes import Float, Int


@dataclass(frozen=True)
class PseudoLabels:
    """The classes that a method gave to unlabelled images, and the weight of each in the loss, 0 to 1; detached.

    The log compares them with the true labels where these are known.
    """

    label: Int[Tensor, " batch"]
    weight: Float[Tensor, " batch"]


@dataclass(frozen=True)
class Losses:
    """What is minimised, and its parts for the log (detached, under their own names)."""

    total: Float[Tensor, ""]
    parts: Mapping[str, Float[Tensor, ""]]
    embedding: Float[Tensor, "batch dim"] | None = None  # of this worker's images, detached: shows a collapse
    pseudo_labels: PseudoLabels | None = None  # of this worker's unlabelled images


class Picture(NamedTuple):
    """A row of the figure that shows what a method solves: images from 0 to 1, (3, h, w) of any size, and a caption."""

    images: list[Float[Tensor, "3 _ _"]]
    caption: str


@dataclass(frozen=True)
class StepInfo:
    """How far a training is before a step: steps done, progress from 0 to 1, passes over the first stream's samples."""

    step: int
    progress: float
    epoch: float


class Method(nn.Module):
    """Owns its networks. `forward` turns the batches of its streams into losses; it is called through the engine.

    Subclasses are made as `cls(settings, model)`, unless they override `build`, and name the network that is kept.
    """

    @classmethod
    def build(cls, settings: Any, model: ModelConfig, num_outputs: int) -> Method:
        """Make the method. `num_outputs`: classes of the labels, or the width of the features that it learns."""
        del num_outputs
        return cls(settings, model)  # pyright: ignore[reportCallIssue]

    constant_lr: tuple[str, ...] = ()  # prefixes of the weights whose learning rate follows no schedule
    step_info = StepInfo(0, 0.0, 0.0)  # of the current step
    seed = 0  # of the training

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        return self.step(batch, self.draw(batch))

    def draw(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
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

    def before_step(self, step_info: StepInfo) -> None:
        """Take note of how far the training is."""
        self.step_info = step_info

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

    def pictures(self, batch: Mapping[str, Batch]) -> list[Picture]:
        """What the method makes of the images of a batch, for the report; called on all workers."""
        del batch
        return []

    @property
    def result(self) -> nn.Module:
        """The network that the checkpoint holds."""
        raise TypeError(f"{type(self).__name__} names no result")


class AveragedMethod(Method):
    """Owns a network and, if the settings' `ema` is above 0, a running average of its weights, then the result.

    `average_sees_training_mode`: the average is applied in training mode, and so keeps batch statistics of its own.
    """

    average_sees_training_mode = False
    network: Any  # of the subclass's own class

    @classmethod
    def build(cls, settings: Any, model: ModelConfig, num_outputs: int) -> Method:
        """Make the method for so many classes."""
        return cls(settings, model, num_outputs)  # pyright: ignore[reportCallIssue]

    def __init__(self, settings: MethodSettings, network: nn.Module):
        super().__init__()
        self.network = network
        self._momentum: float = getattr(settings, "ema", 0.0)
        self.average: Any = copy.deepcopy(network).requires_grad_(False) if self._momentum else None

    def momentum(self, step: int, progress: float) -> float:
        """The share of the old average that stays after this step."""
        del progress
        return warm_momentum(self._momentum, step)

    def after_step(self, step: int, progress: float) -> None:
        if self.average is not None:
            momentum = self.momentum(step, progress)
            update_ema(self.average, self.network, momentum, buffers=not self.average_sees_training_mode)

    @property
    def result(self) -> nn.Module:
        return self.network if self.average is None else self.average


class ClassifierMethod(AveragedMethod):
    """Owns a classifier, and its average."""

    def __init__(self, settings: MethodSettings, model: ModelConfig, num_classes: int):
        super().__init__(settings, build_classifier(model, num_classes))
        self.num_classes = num_classes

    @staticmethod
    def losses(
        logits: Float[Tensor, "batch classes"],
        label: Int[Tensor, " batch"],
        supervised: Float[Tensor, ""],
        weight: float,
        unlabeled: Float[Tensor, ""],
        pseudo_labels: PseudoLabels | None = None,
        parts: Mapping[str, Float[Tensor, ""]] | None = None,
    ) -> Losses:
        """supervised + weight * unlabeled, with what the log shows of it and of `parts`."""
        total = supervised + weight * unlabeled
        shown = {"loss": total, "labeled_loss": supervised, "unlabeled_loss": unlabeled, **(parts or {})}
        shown["train_accuracy"] = distributed.mean((logits.argmax(1) == label).float())
        if pseudo_labels is not None:
            shown["kept"] = distributed.mean(pseudo_labels.weight)
        return Losses(total, {name: value.detach() for name, value in shown.items()}, pseudo_labels=pseudo_labels)


class TaughtMethod(ClassifierMethod):
    """A classifier that learns from another network, frozen, or from the logits that one gave of every image."""

    def __init__(self, settings: MethodSettings, model: ModelConfig, num_classes: int):
        super().__init__(settings, model, num_classes)
        self.teacher: nn.Module | None = None

    def teach(self, teacher: nn.Module) -> None:
        """Take a teacher of the same classes, which sees the student's views; its weights stay."""
        self.teacher = teacher.requires_grad_(False)

    def teacher_logits(self, batch: Batch) -> Float[Tensor, "batch classes"]:
        """What the teacher says of these images."""
        if "teacher_logits" in batch.fields:
            return batch["teacher_logits"]
        assert self.teacher is not None
        with torch.no_grad():
            return self.teacher.eval()(batch.views[0]).float()


def find_method(settings: MethodSettings) -> type[Method]:
    """The code of these settings: it stands beside them, or in the module `method` of their package."""
    module = sys.modules[type(settings).__module__]
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{module.__name__}.method")
    own = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    (cls,) = [c for c in own if issubclass(c, Method)]
    return cls


def build_method(settings: MethodSettings, model: ModelConfig, num_outputs: int) -> Method:
    """Make the method of these settings."""
    return find_method(settings).build(settings, model, num_outputs)
