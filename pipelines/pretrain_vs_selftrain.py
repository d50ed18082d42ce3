"""Pre-training against self-training, as labels and augmentation grow (Zoph et al. 2020, arXiv:2006.06882).

1. Pre-train a network on every training image, labels unread.
2. For each share of the labels and each strength of augmentation S1, S2, ...:
   `random`: train on the labels from random weights; `pretrained`: from the pre-trained ones;
   `self_trained`: let `random` label the unlabelled images, and train anew, from random weights, on both;
   `joint`: the same from the pre-trained weights, with `pretrained` as the teacher.
3. Measure all on the test split; show them in one table.
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
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.data import PackConfig
from sslscale.settings.pseudo import EvaluateConfig, ScoreConfig, SelectConfig
from sslscale.settings.train import TrainConfig, images_of
from sslscale.stages import training
from sslscale.stages.evaluate import evaluate
from sslscale.stages.grid import GridConfig, grid
from sslscale.stages.pack import content, pack
from sslscale.stages.score import score
from sslscale.stages.select import select


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. `supervised` and `student` (labels and pseudo-labels: joint_training or noisy_student) take each of
    the `strengths` as their augmentation, S1 first; teachers score without any."""

    data: PackConfig
    pretrain: TrainConfig
    supervised: TrainConfig
    student: TrainConfig
    strengths: tuple[AugmentConfig, ...]
    label_fractions: tuple[float, ...] = (1.0,)
    score: ScoreConfig = ScoreConfig()
    select: SelectConfig = SelectConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    resources: Resources = Resources()
    seed: int = 0

    def __post_init__(self) -> None:
        require(isinstance(self.supervised.method, Supervised), "supervised", "its method must be supervised")
        streams = {stream.name for stream in self.student.method.streams}
        require(streams == {"labeled", "pseudo"}, "student", "its method must learn from labels and pseudo-labels")
        for name in ("pretrain", "student"):
            same = getattr(self, name).model.name == self.supervised.model.name
            require(same, name, f"its model must be {self.supervised.model.name}, as that of supervised")
        require(len(self.strengths) > 0, "strengths", "must name at least one augmentation")
        require(len(self.label_fractions) > 0, "label_fractions", "must name at least one share")
        require(all(0 < f <= 1 for f in self.label_fractions), "label_fractions", "must lie in (0, 1]")


def build(config: Config) -> list[Stage]:
    """The graph. The last target is the report."""
    seed = config.seed
    source = config.data.seen_by(images_of(config), seed=seed)
    data = stage(pack, source, name="data", resources=config.resources, content=partial(content, source))

    def trained(name: str, settings: TrainConfig, **inputs: Any) -> Stage:
        settings = dataclasses.replace(settings, seed=seed)
        return training(settings, name=name, resources=config.resources, data=data, **inputs)

    def labelled(name: str, teacher: Stage) -> Stage:
        scores = stage(
            score, config.score, name=f"{name}/score", resources=config.resources, teacher=teacher, data=data
        )
        settings = dataclasses.replace(config.select, seed=seed)
        return stage(select, settings, name=f"{name}/select", scores=scores, data=data)

    pretrained = trained("pretrain", config.pretrain)
    networks: dict[str, Stage] = {}
    for fraction in config.label_fractions:
        for number, strength in enumerate(config.strengths, 1):
            own = {"augment": strength, "label_fraction": fraction}
            supervised = dataclasses.replace(config.supervised, **own)
            student = dataclasses.replace(config.student, **own)
            where = f"S{number}_{100 * fraction:g}pct"
            for start, goal, first in (
                ("random", "self_trained", {}),
                ("pretrained", "joint", {"init": pretrained}),
            ):
                teacher = trained(f"{where}_{start}", supervised, **first)
                name = f"{where}_{goal}"
                networks[f"{where}_{start}"] = teacher
                networks[name] = trained(name, student, selection=labelled(name, teacher), **first)
    reports: dict[str, Any] = {
        name: stage(evaluate, config.evaluate, name=f"{name}/evaluate", model=model, data=data)
        for name, model in networks.items()
    }
    shares = {f"{100 * fraction:g}pct": f"{100 * fraction:g} % of the labels" for fraction in config.label_fractions}
    settings = GridConfig(
        panels=tuple(shares.items()),
        columns=tuple(f"S{number}" for number in range(1, len(config.strengths) + 1)),
        rows=("random", "pretrained", "self_trained", "joint"),
    )
    return [stage(grid, settings, name="report", **reports)]
