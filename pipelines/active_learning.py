"""Active learning with an oracle: what each way to choose the next images is worth, against chance.

1. Pack the data with few labels; the others are hidden, and known to the oracle alone.
2. For each start, train on the labelled images, choose `per_round` unlabelled ones by each strategy, take their labels
   from the oracle, train anew; `rounds` times.
3. Measure each network on the test images: accuracy against labels, the area under the curve, and the difference from
   `random` of the same start and seed.

A start is how networks are trained: from first weights at random, from a self-supervised training (`pretrain`), or by a
semi-supervised method. All strategies begin with the same images, labels and network.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

from sslscale.config import require
from sslscale.graph.dag import Stage, stage
from sslscale.graph.resources import Resources
from sslscale.settings.data import PackConfig
from sslscale.settings.pseudo import EvaluateConfig
from sslscale.settings.suggest import Strategy, SuggestConfig
from sslscale.settings.train import TrainConfig, images_of
from sslscale.stages import training
from sslscale.stages.active_curves import ActiveCurvesConfig, active_curves
from sslscale.stages.answer import AnswerConfig, answer
from sslscale.stages.evaluate import evaluate
from sslscale.stages.pack import content, has_test, pack
from sslscale.stages.suggest import suggest


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Resources of the kinds of stage that are heavy."""

    data: Resources = Resources()
    train: Resources = Resources()
    suggest: Resources = Resources()


@dataclass(frozen=True, kw_only=True)
class Start:
    """How a network is trained in each round; with `pretrain` from the weights of that training, which is done once a
    seed, and whose features `typiclust` compares."""

    train: TrainConfig
    pretrain: TrainConfig | None = None


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole experiment. `seeds` runs differ in the first labels, the first weights and all draws."""

    data: PackConfig
    starts: dict[str, Start]
    strategies: tuple[Strategy, ...] = (
        "random",
        "margin",
        "entropy",
        "least_confidence",
        "coreset",
        "badge",
        "typiclust",
    )
    rounds: int = 4
    per_round: int = 20
    pool: int = 50_000
    evaluate: EvaluateConfig = EvaluateConfig()
    resources: Workers = Workers()
    seeds: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        require(len(self.starts) > 0, "starts", "must name at least one")
        require("random" in self.strategies, "strategies", "random must be among them: it is what others are held to")
        require(self.rounds >= 1, "rounds", "must be 1 or more")
        require(self.per_round >= 1, "per_round", "must be 1 or more")
        require(self.seeds >= 1, "seeds", "must be 1 or more")
        require(has_test(self.data), "data", "test is missing: a share of the images, or a folder")
        known = self.data.labels_per_class is not None and self.data.keep_hidden_labels
        require(known, "data", "labels_per_class and keep_hidden_labels: true say what is labelled and what is known")


def build(config: Config) -> list[Stage]:
    """The graph. The only target is the report."""
    reports: dict[str, Any] = {}
    for number in range(config.seeds):
        seed = config.seed + number
        source = config.data.seen_by(images_of(config), seed=seed)
        data = stage(
            pack, source, name=f"seed_{seed}/data", resources=config.resources.data, content=partial(content, source)
        )
        for name, start in config.starts.items():
            reports |= _start(config, name, start, seed, data)
    labels = _first_labels(config)
    curves = ActiveCurvesConfig(
        starts=tuple(config.starts),
        strategies=config.strategies,
        rounds=config.rounds,
        per_round=config.per_round,
        first=labels,
        seeds=tuple(config.seed + number for number in range(config.seeds)),
    )
    return [stage(active_curves, curves, name="report", **reports)]


def _first_labels(config: Config) -> int:
    """Labels a class in the first round; the report multiplies by the classes."""
    assert config.data.labels_per_class is not None
    return config.data.labels_per_class


def _start(config: Config, name: str, start: Start, seed: int, data: Stage) -> dict[str, Stage]:
    """The evaluations of one start and seed: of round 0, and of each strategy's rounds."""
    place = f"seed_{seed}/{name}"
    settings = dataclasses.replace(start.train, seed=seed)
    inputs: dict[str, Any] = {}
    if start.pretrain is not None:
        own = dataclasses.replace(start.pretrain, seed=seed)
        inputs["init"] = training(own, name=f"{place}/pretrain", resources=config.resources.train, data=data)

    def learned(of: str, images: Stage) -> tuple[Stage, Stage]:
        model = training(settings, name=of, resources=config.resources.train, data=images, **inputs)
        return model, stage(evaluate, config.evaluate, name=f"{of}/evaluate", model=model, data=images)

    first, report = learned(f"{place}/round_0", data)
    reports = {f"{name}__{seed}__first": report}
    for strategy in config.strategies:
        model, images = first, data
        for number in range(1, config.rounds + 1):
            of = f"{place}/{strategy}/round_{number}"
            asked = SuggestConfig(
                number=config.per_round, by=strategy, pool=max(config.pool, config.per_round), seed=seed + number
            )
            judge = inputs.get("init", model) if strategy == "typiclust" else model
            chosen = stage(
                suggest, asked, name=f"{of}/suggest", resources=config.resources.suggest, model=judge, data=images
            )
            images = stage(answer, AnswerConfig(), name=f"{of}/answer", data=images, suggestions=chosen)
            model, report = learned(of, images)
            reports[f"{name}__{seed}__{strategy}__{number}"] = report
    return reports
