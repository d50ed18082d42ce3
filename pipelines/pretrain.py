"""Self-supervised pre-training, and what came of it.

1. Pre-train a network on every training image, labels unread.
2. Freeze it; fit kNN and a linear classifier to the labelled images' features; measure both on the test split.
3. The same for the network before training: what is above it was learned.
4. Fine-tune the whole network on the labels, if the file says so.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

from sslscale.config import require
from sslscale.dag import Resources, Stage, stage
from sslscale.recipes.data import PackConfig
from sslscale.recipes.features import ExtractConfig
from sslscale.recipes.probe import ProbeConfig
from sslscale.recipes.pseudo import EvaluateConfig
from sslscale.recipes.supervised import Supervised
from sslscale.recipes.train import TrainConfig
from sslscale.stages.evaluate import evaluate
from sslscale.stages.extract import extract
from sslscale.stages.initialize import initialize
from sslscale.stages.pack import content, pack
from sslscale.stages.probe import probe
from sslscale.stages.train import train


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Resources of the stages that are heavy."""

    train: Resources = Resources()
    extract: Resources = Resources()


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. `finetune` must build the network that `pretrain` trains."""

    data: PackConfig
    pretrain: TrainConfig
    extract: ExtractConfig = ExtractConfig(splits=("labeled", "test"))
    probe: ProbeConfig = ProbeConfig()
    finetune: TrainConfig | None = None
    evaluate: EvaluateConfig = EvaluateConfig()
    resources: Workers = Workers()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.finetune is not None:
            require(isinstance(self.finetune.method, Supervised), "finetune", "its method must be supervised")
            same = self.finetune.model.name == self.pretrain.model.name
            require(same, "finetune", f"its model must be {self.pretrain.model.name}, which is pre-trained")


def build(config: Config) -> list[Stage]:
    """The graph."""
    seed = config.seed
    source = dataclasses.replace(config.data, seed=seed)
    settings = dataclasses.replace(config.pretrain, seed=seed)
    judged = dataclasses.replace(config.probe, seed=seed)
    data = stage(pack, source, name="data", content=partial(content, source))
    random = stage(initialize, settings, name="random", data=data)
    trained = stage(train, settings, name="pretrain", resources=config.resources.train, data=data)
    targets = []
    for name, model in (("random", random), ("pretrain", trained)):
        features = stage(
            extract,
            config.extract,
            name=f"{name}/features",
            resources=config.resources.extract,
            model=model,
            data=data,
        )
        targets.append(stage(probe, judged, name=f"{name}/probe", features=features, data=data))
    if config.finetune is not None:
        tuned = stage(
            train,
            dataclasses.replace(config.finetune, seed=seed),
            name="finetune",
            resources=config.resources.train,
            data=data,
            init=trained,
        )
        targets.append(stage(evaluate, config.evaluate, name="finetune/evaluate", model=tuned, data=data))
    return targets
