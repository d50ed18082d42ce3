"""What pretext tasks have in common: a backbone, and a head whose labels are made of the images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data import rng
from sslscale.data.batch import Batch
from sslscale.data.channels import as_rgb
from sslscale.data.transfer import to_device
from sslscale.methods.method import Losses, Method, Picture, find_method
from sslscale.nn.batch_norm import statistics_kept
from sslscale.nn.classifier import build_backbone
from sslscale.settings.method import MethodSettings
from sslscale.settings.model import ModelConfig
from sslscale.settings.train import TrainConfig
from sslscale.shapes import Float, Int


class Task(nn.Module):
    """One pretext task: what is made of a view, and the head that solves it.

    `num_draws` uniform numbers for each image say what is made of it; one more is the same for all images of a step.
    `mean` and `std` are those that views have been normalised by.
    """

    num_draws = 0
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.ones(3, 1, 1), persistent=False)

    def prepare(self, config: TrainConfig, backbone: nn.Module) -> None:
        """Make what depends on the training, or on the backbone; called once, before any step."""
        del backbone
        self.mean = torch.tensor(config.image.mean).view(-1, 1, 1)
        self.std = torch.tensor(config.image.std).view(-1, 1, 1)

    def forward(
        self, backbone: nn.Module, view: Float[Tensor, "batch channels h w"], draws: Float[Tensor, "batch draws"]
    ) -> Losses:
        raise TypeError(f"{type(self).__name__} has no loss")

    def pictures(
        self, backbone: nn.Module, view: Float[Tensor, "batch channels h w"], draws: Float[Tensor, "batch draws"]
    ) -> list[Picture]:
        """What the task makes of a few images, and how it is solved."""
        raise TypeError(f"{type(self).__name__} has no pictures")

    def pixels(self, view: Float[Tensor, "*batch channels h w"]) -> Float[Tensor, "*batch 3 h w"]:
        """RGB from 0 to 1 of normalised images."""
        return as_rgb((view.float() * self.std + self.mean).clamp(0, 1))


def classify(
    logits: Float[Tensor, "rows classes"],
    target: Int[Tensor, " rows"],
    embedding: Float[Tensor, "batch dim"] | None = None,
) -> Losses:
    """Cross-entropy of the task's classes, the mean over all workers' rows, with the share that is right."""
    loss = distributed.mean(F.cross_entropy(logits.float(), target, reduction="none"))
    right = distributed.mean((logits.argmax(1) == target).float())
    parts = {"loss": loss.detach(), "pretext_accuracy": right.detach()}
    return Losses(loss, parts, None if embedding is None else embedding.detach())


def standardize(patches: Float[Tensor, "n channels s s"]) -> Float[Tensor, "n channels s s"]:
    """Each patch to mean 0 and variance 1 over all its numbers: its brightness tells nothing of its place."""
    centred = patches - patches.mean((1, 2, 3), keepdim=True)
    return centred / (centred.square().mean((1, 2, 3), keepdim=True).sqrt() + 1e-5)


def hashed(seeds: Float[Tensor, " n"], count: int) -> Float[Tensor, "n count"]:
    """Numbers in [0, 1) that look random and follow from each seed alone: the same on any number of workers."""
    place = torch.arange(count, device=seeds.device, dtype=torch.float32)
    mixed = torch.sin(seeds[:, None] * 78.233 + (place + 1) * 12.9898) * 43758.5453
    return mixed - mixed.floor()


class PretextMethod(Method):
    """A backbone and one task; the backbone is kept. A subclass names the task, which is made of (settings, width)."""

    kind: type[Any]

    def __init__(self, settings: MethodSettings, model: ModelConfig):
        super().__init__()
        self.backbone, width = build_backbone(model)
        self.task: Task = self.kind(settings, width)

    def prepare(self, num_images: Mapping[str, int], config: TrainConfig, scratch: Path | None = None) -> None:
        super().prepare(num_images, config, scratch)
        self.task.prepare(config, self.backbone)

    def draw(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        return {"draws": uniforms(batch["images"], self.seed, self.step_info.step, "pretext", self.task.num_draws)}

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        return self.task(self.backbone, batch["images"].views[0], drawn["draws"])

    @torch.no_grad()
    def pictures(self, batch: Mapping[str, Batch]) -> list[Picture]:
        draws = self.draw(batch)["draws"]
        with statistics_kept(self):
            return self.task.pictures(self.backbone, batch["images"].views[0], draws)

    @property
    def result(self) -> nn.Module:
        return self.backbone


def uniforms(images: Batch, seed: int, step: int, name: str, count: int) -> Float[Tensor, "batch draws"]:
    """Numbers in [0, 1) for each image of a batch, which follow from the seed, the step and the image alone; and one
    more, the last, which is that of the step and the same for all images."""
    numbers = images.host_index
    when = torch.full_like(numbers, step)
    own = rng.uniforms(rng.stream_seed(seed, name), when, numbers, count)
    shared = rng.uniforms(rng.stream_seed(seed, f"{name} step"), when, torch.zeros_like(numbers), 1)
    return to_device(torch.cat([own, shared], 1), images.index.device)


def build_task(settings: MethodSettings, width: int) -> Task:
    """The task of a pretext method's settings, for a backbone of so many features."""
    method: Any = find_method(settings)
    return method.kind(settings, width)
