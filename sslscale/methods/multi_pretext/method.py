"""Several pretext tasks on one network, in one step or in turn (arXiv:1708.07860)."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from sslscale.data import rng
from sslscale.data.batch import Batch
from sslscale.methods.method import Losses, Method, Picture
from sslscale.methods.multi_pretext import MultiPretext
from sslscale.methods.pretext import Task, build_task, uniforms
from sslscale.nn.batch_norm import statistics_kept
from sslscale.nn.classifier import build_backbone
from sslscale.settings.model import ModelConfig
from sslscale.settings.train import TrainConfig


class MultiPretextMethod(Method):
    """A backbone and a head for each task. Heads that a step does not use stay as they are in it."""

    def __init__(self, settings: MultiPretext, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_backbone(model)
        self.heads = nn.ModuleDict({task.method.name: build_task(task.method, width) for task in settings.tasks})
        self._weights = {task.method.name: task.weight for task in settings.tasks}
        self._first = settings.tasks[0].method.name

    def prepare(self, num_images: Mapping[str, int], config: TrainConfig, scratch: Path | None = None) -> None:
        super().prepare(num_images, config, scratch)
        for name in self._weights:
            own = config.views.get(name)
            size = (own and own.size) or config.image.size
            image = dataclasses.replace(config.image, size=size)
            self._head(name).prepare(dataclasses.replace(config, image=image), self.backbone)

    def _head(self, name: str) -> Task:
        return cast(Task, self.heads[name])

    def tasks_of(self, step: int) -> list[str]:
        """The tasks of a step: all, or one that follows from the seed and the step."""
        if self.settings.mode == "sum":
            return list(self._weights)
        shares = [task.share for task in self.settings.tasks]
        chosen = random.Random(rng.stream_seed(self.seed, f"task {step}"))  # noqa: S311
        return chosen.choices(list(self._weights), shares)

    @property
    def frozen(self) -> tuple[Tensor, ...]:
        now = self.tasks_of(self.step_info.step)
        return tuple(w for name in self._weights if name not in now for w in self._head(name).parameters())

    def draw(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        return self._draws(batch["images"], self.tasks_of(self.step_info.step))

    def _draws(self, images: Batch, names: list[str]) -> dict[str, Tensor]:
        step = self.step_info.step
        return {name: uniforms(images, self.seed, step, name, self._head(name).num_draws) for name in names}

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        views = batch["images"].views
        total, parts = torch.zeros((), device=views[0].device), {}
        embedding = None
        for number, name in enumerate(self._weights):
            if name not in drawn:  # its head takes part with 0: all workers reduce the same gradients
                total = total + sum(0.0 * weight.sum() for weight in self._head(name).parameters())
                continue
            view = views[number if self.settings.mode == "sum" else 0]
            with contextlib.nullcontext() if name == self._first else statistics_kept(self.backbone):
                losses = self._head(name)(self.backbone, view, drawn[name])
            total = total + self._weights[name] * losses.total
            parts |= {f"{name}_{part}": value for part, value in losses.parts.items()}
            embedding = losses.embedding if embedding is None else embedding
        return Losses(total, {"loss": total.detach(), **parts}, embedding)

    @torch.no_grad()
    def pictures(self, batch: Mapping[str, Batch]) -> list[Picture]:
        images = batch["images"]
        draws = self._draws(images, list(self._weights))
        found = []
        with statistics_kept(self):
            for number, name in enumerate(self._weights):
                view = images.views[number if self.settings.mode == "sum" else 0]
                found += self._head(name).pictures(self.backbone, view, draws[name])
        return found

    @property
    def result(self) -> nn.Module:
        return self.backbone
