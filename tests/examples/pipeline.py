"""A graph and a stage from outside the package: pre-train, extract features, measure how evenly they are spread."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import partial

from sslscale.graph.artifacts import Embeddings, Report
from sslscale.graph.context import RunContext
from sslscale.graph.dag import Stage, cpu_only, stage
from sslscale.settings.data import PackConfig
from sslscale.settings.features import ExtractConfig
from sslscale.settings.train import TrainConfig
from sslscale.stages.extract import extract
from sslscale.stages.pack import content, pack
from sslscale.stages.train import train


@dataclass(frozen=True, kw_only=True)
class SpreadConfig:
    """Of which split the features are measured."""

    split: str = "test"
    t: float = 2.0
    version: int = field(default=1, init=False)


@cpu_only
def spread(ctx: RunContext, config: SpreadConfig, *, features: Embeddings) -> Report:
    """The uniformity of a split's features, log E exp(-t ||x_i - x_j||^2) of rows of length 1: lower is more even."""
    import torch

    from sslscale.data.features import Features

    rows = torch.from_numpy(Features(features.dir, (config.split,)).read()).float()
    rows = torch.nn.functional.normalize(rows, dim=1)
    value = torch.pdist(rows).square().mul(-config.t).exp().mean().log()
    return Report(path=str(ctx.path), metrics={"uniformity": float(value)})


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run."""

    data: PackConfig
    pretrain: TrainConfig
    spread: SpreadConfig = SpreadConfig()
    seed: int = 0


def build(config: Config) -> list[Stage]:
    """The graph."""
    source = dataclasses.replace(config.data, seed=config.seed)
    data = stage(pack, source, name="data", content=partial(content, source))
    settings = dataclasses.replace(config.pretrain, seed=config.seed)
    model = stage(train, settings, name="pretrain", data=data)
    features = stage(extract, ExtractConfig(splits=("test",)), name="features", model=model, data=data)
    return [stage(spread, config.spread, name="spread", features=features)]
