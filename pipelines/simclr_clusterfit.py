"""Pre-training, ClusterFit, fine-tuning (Yan et al. 2020, arXiv:1912.03330, algorithm of section 3).

1. Pre-train a network on every training image, labels unread (SimCLR, or any method that does).
2. Take its features of the images, and cluster them by k-means.
3. Train a new network from scratch to tell the clusters: ClusterFit.
4. Judge both by the same probes, and fine-tune both on the labels.

What the clusters do is told from what the second training does by two controls: pre-training that is twice as long, and
a new network that learns the features themselves.

Of images without any label step 4 and the report are left out, and the plan says so.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

from sslscale.config import require
from sslscale.graph.dag import Stage, stage
from sslscale.graph.resources import Resources
from sslscale.methods.feature_distillation import FeatureDistillation
from sslscale.methods.supervised import Supervised
from sslscale.settings.data import PackConfig
from sslscale.settings.features import ExtractConfig, KMeansConfig
from sslscale.settings.probe import ProbeConfig
from sslscale.settings.pseudo import EvaluateConfig
from sslscale.settings.train import TrainConfig, images_of
from sslscale.stages import training
from sslscale.stages.comparison import ComparisonConfig, comparison
from sslscale.stages.evaluate import evaluate
from sslscale.stages.extract import extract
from sslscale.stages.initialize import initialize
from sslscale.stages.kmeans import kmeans
from sslscale.stages.pack import content, is_labeled, pack
from sslscale.stages.probe import probe


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Resources of the kinds of stage that are heavy."""

    data: Resources = Resources()
    train: Resources = Resources()
    extract: Resources = Resources()
    kmeans: Resources = Resources()


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. `clusterfit` trains the new network; `distill` is taken from it unless it is given.

    `controls` names the comparisons to run beside; `finetune` is run from each of `finetune_from`, on the same budget.
    """

    data: PackConfig
    pretrain: TrainConfig
    kmeans: KMeansConfig
    clusterfit: TrainConfig
    distill: TrainConfig | None = None
    finetune: TrainConfig
    controls: tuple[str, ...] = ("pretrain_2x", "distill")
    finetune_from: tuple[str, ...] = ("clusterfit", "pretrain", "scratch")
    extract: ExtractConfig = ExtractConfig()
    probe: ProbeConfig = ProbeConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    resources: Workers = Workers()
    seed: int = 0

    def __post_init__(self) -> None:
        require(isinstance(self.clusterfit.method, Supervised), "clusterfit", "its method must be supervised")
        require(isinstance(self.finetune.method, Supervised), "finetune", "its method must be supervised")
        if self.distill is not None:
            require(isinstance(self.distill.method, FeatureDistillation), "distill", "must be feature_distillation")
        known = ("pretrain_2x", "distill")
        require(set(self.controls) <= set(known), "controls", f"are among {', '.join(known)}")
        known = ("clusterfit", "pretrain", "scratch", *self.controls)
        require(set(self.finetune_from) <= set(known), "finetune_from", f"are among {', '.join(known)}")
        for name, config in (("pretrain", self.pretrain), ("clusterfit", self.clusterfit)):
            if name in self.finetune_from:
                same = config.model.name == self.finetune.model.name
                require(same, "finetune", f"its model must be {config.model.name}, that of {name}")


def notes(config: Config) -> list[str]:
    """What the graph leaves out, and why."""
    if is_labeled(config.data):
        return []
    return [
        f"{config.data.source} has no labels: the probes, fine-tuning and the report are left out; data.labels names a "
        "file of them"
    ]


def build(config: Config) -> list[Stage]:
    """The graph. The last target is the report."""
    seed, workers = config.seed, config.resources
    source = config.data.seen_by(images_of(config), seed=seed)
    data = stage(pack, source, name="data", resources=config.resources.data, content=partial(content, source))

    def trained(settings: TrainConfig, name: str, **inputs: Any) -> Stage:
        settings = dataclasses.replace(settings, seed=seed)
        return training(settings, name=name, resources=workers.train, data=data, **inputs)

    def described(name: str, model: Stage) -> Stage:
        return stage(
            extract, config.extract, name=f"{name}/features", resources=workers.extract, model=model, data=data
        )

    networks = {"random": stage(initialize, dataclasses.replace(config.pretrain, seed=seed), name="random", data=data)}
    networks["pretrain"] = trained(config.pretrain, "pretrain")
    features = described("pretrain", networks["pretrain"])
    clusters = stage(
        kmeans,
        dataclasses.replace(config.kmeans, seed=seed),
        name="clusters",
        resources=workers.kmeans,
        features=features,
    )
    networks["clusterfit"] = trained(config.clusterfit, "clusterfit", clusters=clusters)
    if "pretrain_2x" in config.controls:
        networks["pretrain_2x"] = trained(twice(config.pretrain), "pretrain_2x")
    if "distill" in config.controls:
        settings = config.distill or dataclasses.replace(config.clusterfit, method=FeatureDistillation())
        networks["distill"] = trained(settings, "distill", features=features)

    if not is_labeled(config.data):
        return [network for name, network in networks.items() if name != "random"]
    reports: dict[str, Any] = {}
    for name, network in networks.items():
        found = features if name == "pretrain" else described(name, network)
        settings = dataclasses.replace(config.probe, seed=seed)
        reports[f"{name}_probe"] = stage(probe, settings, name=f"{name}/probe", features=found, data=data)
    for name in config.finetune_from:
        title = "finetune" if name == config.finetune_from[0] else f"finetune_{name}"
        first: dict[str, Any] = {} if name == "scratch" else {"init": networks[name]}
        tuned = trained(config.finetune, title, **first)
        reports[f"{name}_finetune"] = stage(evaluate, config.evaluate, name=f"{title}/evaluate", model=tuned, data=data)
    settings = ComparisonConfig(
        networks=(*networks, "scratch") if "scratch" in config.finetune_from else tuple(networks), baseline="pretrain"
    )
    return [stage(comparison, settings, name="report", clusters=clusters, **reports)]


def twice(settings: TrainConfig) -> TrainConfig:
    """The same training, twice as long."""
    steps, epochs = settings.num_steps, settings.epochs
    return dataclasses.replace(settings, num_steps=steps and 2 * steps, epochs=epochs and 2 * epochs)
