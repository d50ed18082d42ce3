"""Knowledge transfer by clusters, across networks (Noroozi et al. 2018, arXiv:1805.00385, section 3).

1. Pre-train a network, the teacher, by any method: a pretext task, SimCLR, or (noisy) labels.
2. Take its features of the images, and cluster them, once for each number of clusters.
3. For each, train the student, another network perhaps, from scratch to tell the clusters.
4. Judge all by the same probes, beside an untrained student and, as controls, a student that is pre-trained as the
   teacher was and one that learns the teacher's features themselves.

The report's figure has the students in the order of their number of clusters.
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
from sslscale.settings.probe import LayerwiseConfig, ProbeConfig
from sslscale.settings.train import TrainConfig, images_of
from sslscale.stages import training
from sslscale.stages.comparison import ComparisonConfig, comparison
from sslscale.stages.extract import extract
from sslscale.stages.initialize import initialize
from sslscale.stages.kmeans import kmeans
from sslscale.stages.layerwise import layerwise
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
    """A whole run. `k` are the numbers of clusters; `kmeans` says how they are found; `student` how one is trained."""

    data: PackConfig
    teacher: TrainConfig
    k: tuple[int, ...] = (2000,)
    kmeans: KMeansConfig = KMeansConfig(k=2)
    student: TrainConfig
    controls: tuple[str, ...] = ("pretext", "distill")
    layerwise: bool = False  # also probe every layer of the teacher and of the students
    extract: ExtractConfig = ExtractConfig()
    probe: ProbeConfig = ProbeConfig()
    resources: Workers = Workers()
    seed: int = 0

    def __post_init__(self) -> None:
        require(len(self.k) > 0 and all(k >= 2 for k in self.k), "k", "must be numbers of 2 or more")
        require(len(set(self.k)) == len(self.k), "k", "must be different numbers")
        require(isinstance(self.student.method, Supervised), "student", "its method must be supervised")
        known = ("pretext", "distill")
        require(set(self.controls) <= set(known), "controls", f"are among {', '.join(known)}")


def notes(config: Config) -> list[str]:
    """What the graph leaves out, and why."""
    if is_labeled(config.data):
        return []
    return [f"{config.data.source} has no labels: the probes and the report are left out; data.labels names a file"]


def build(config: Config) -> list[Stage]:
    """The graph. The last target is the report."""
    seed, workers = config.seed, config.resources
    source = config.data.seen_by(images_of(config), seed=seed)
    data = stage(pack, source, name="data", resources=workers.data, content=partial(content, source))

    def trained(settings: TrainConfig, name: str, **inputs: Any) -> Stage:
        settings = dataclasses.replace(settings, seed=seed)
        return training(settings, name=name, resources=workers.train, data=data, **inputs)

    def described(name: str, model: Stage) -> Stage:
        return stage(
            extract, config.extract, name=f"{name}/features", resources=workers.extract, model=model, data=data
        )

    teacher = trained(config.teacher, "teacher")
    features = described("teacher", teacher)
    networks: dict[str, Stage] = {}
    if is_labeled(config.data):
        student = dataclasses.replace(config.student, seed=seed)
        networks["random"] = stage(initialize, student, name="random", data=data)
    networks["teacher"] = teacher
    if "pretext" in config.controls:
        own = dataclasses.replace(config.teacher, model=config.student.model)
        networks["pretext"] = trained(own, "pretext")
    if "distill" in config.controls:
        own = dataclasses.replace(config.student, method=FeatureDistillation())
        networks["distill"] = trained(own, "distill", features=features)
    for k in config.k:
        settings = dataclasses.replace(config.kmeans, k=k, seed=seed)
        clusters = stage(kmeans, settings, name=f"clusters_{k}", resources=workers.kmeans, features=features)
        networks[f"student_{k}"] = trained(config.student, f"student_{k}", clusters=clusters)
    if not is_labeled(config.data):
        return list(networks.values())
    targets, reports = [], {}
    for name, network in networks.items():
        found = features if name == "teacher" else described(name, network)
        judged = dataclasses.replace(config.probe, seed=seed)
        reports[f"{name}_probe"] = stage(probe, judged, name=f"{name}/probe", features=found, data=data)
        if config.layerwise:
            settings = LayerwiseConfig(seed=seed)
            targets.append(stage(layerwise, settings, name=f"{name}/layerwise", model=network, data=data))
    settings = ComparisonConfig(networks=tuple(networks), baseline="teacher")
    return [*targets, stage(comparison, settings, name="report", **reports)]
