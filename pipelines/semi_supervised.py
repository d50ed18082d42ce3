"""Learning from labelled and unlabelled images at once: FixMatch and its kin.

1. Pack the images; what is labelled and what is not becomes two streams.
2. Make the first weights from every image, labels unread, if the file says how.
3. Train by a semi-supervised method; beside it, on the labels alone, as the measure of what the others are worth.
4. Measure both on the test split; show them in one table.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

from sslscale.config import require
from sslscale.graph.dag import Stage, stage
from sslscale.graph.resources import Resources
from sslscale.methods.supervised import Supervised
from sslscale.settings.data import PackConfig
from sslscale.settings.method import SemiSupervised
from sslscale.settings.pseudo import EvaluateConfig
from sslscale.settings.train import TrainConfig, images_of
from sslscale.stages import training
from sslscale.stages.comparison import ComparisonConfig, comparison
from sslscale.stages.evaluate import evaluate
from sslscale.stages.pack import content, pack


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. `supervised` is the same training without the unlabelled images, if it is wanted."""

    data: PackConfig
    train: TrainConfig
    supervised: TrainConfig | None = None
    pretrain: TrainConfig | None = None
    evaluate: EvaluateConfig = EvaluateConfig()
    resources: Resources = Resources()
    seed: int = 0

    def __post_init__(self) -> None:
        method = self.train.method
        require(isinstance(method, SemiSupervised), "train", f"{method.name} is not a semi-supervised method")
        if self.supervised is not None:
            require(isinstance(self.supervised.method, Supervised), "supervised", "its method must be supervised")
        if self.pretrain is not None:
            same = self.pretrain.model.name == self.train.model.name
            require(same, "pretrain", f"its model must be {self.train.model.name}, which goes on from it")


def build(config: Config) -> list[Stage]:
    """The graph. The last target is the report."""
    seed = config.seed
    source = config.data.seen_by(images_of(config), seed=seed)
    data = stage(pack, source, name="data", resources=config.resources, content=partial(content, source))

    def trained(name: str, settings: TrainConfig, **first: Any) -> Stage:
        settings = dataclasses.replace(settings, seed=seed)
        return training(settings, name=name, resources=config.resources, data=data, **first)

    first: dict[str, Any] = {}
    if config.pretrain is not None:
        first["init"] = trained("pretrain", config.pretrain)
    name = config.train.method.name
    networks = {name: trained(name, config.train, **first)}
    if config.supervised is not None:
        networks = {"supervised": trained("supervised", config.supervised, **first)} | networks
    reports: dict[str, Any] = {
        f"{name}_test": stage(evaluate, config.evaluate, name=f"{name}/evaluate", model=model, data=data)
        for name, model in networks.items()
    }
    settings = ComparisonConfig(networks=tuple(networks), baseline=next(iter(networks)))
    return [stage(comparison, settings, name="report", **reports)]
