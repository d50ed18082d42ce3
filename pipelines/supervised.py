"""Supervised training, from random or public weights.

1. Train on the labelled images.
2. Measure on the test split; show the result.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

from sslscale.config import require
from sslscale.graph.dag import Stage, stage
from sslscale.graph.resources import Resources
from sslscale.methods.supervised import Supervised
from sslscale.settings.data import PackConfig
from sslscale.settings.pseudo import EvaluateConfig
from sslscale.settings.train import TrainConfig, images_of
from sslscale.stages import training
from sslscale.stages.evaluate import evaluate
from sslscale.stages.pack import content, pack


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. With `train.init` it is fine-tuning."""

    data: PackConfig
    train: TrainConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    resources: Resources = Resources()
    seed: int = 0

    def __post_init__(self) -> None:
        require(isinstance(self.train.method, Supervised), "train", "its method must be supervised")


def build(config: Config) -> list[Stage]:
    """The graph."""
    source = config.data.seen_by(images_of(config), seed=config.seed)
    data = stage(pack, source, name="data", resources=config.resources, content=partial(content, source))
    settings = dataclasses.replace(config.train, seed=config.seed)
    model = training(settings, name="train", resources=config.resources, data=data)
    return [stage(evaluate, config.evaluate, name="train/evaluate", model=model, data=data)]
