"""Distillation: what a student gains from a teacher, from a smaller one, from a poor one, and from none.

1. Train a large network and a small one on the labels; both are what the others are compared with.
2. `teacher`: the large one teaches a new small one (Hinton et al. 2015; DeiT, if that is the student's method).
3. `itself`: the small one teaches a new small one (Tf-KD's self-training, Yuan et al. 2020, arXiv:1909.11723).
4. `virtual`: a teacher that is computed by hand teaches a small one (Tf-KD's regularisation).
5. `reversed`: the small one teaches a new large one (Re-KD). `poor`: a large one that hardly trained does (De-KD).
6. Measure all on the test split; show them in one table.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from sslscale.config import require
from sslscale.dag import Resources, Stage, stage
from sslscale.recipes.data import PackConfig
from sslscale.recipes.features import ExtractConfig
from sslscale.recipes.knowledge_distillation import KnowledgeDistillation
from sslscale.recipes.pseudo import EvaluateConfig
from sslscale.recipes.supervised import Supervised
from sslscale.recipes.train import TrainConfig
from sslscale.stages.comparison import ComparisonConfig, comparison
from sslscale.stages.evaluate import evaluate
from sslscale.stages.extract import extract
from sslscale.stages.pack import content, pack
from sslscale.stages.train import train


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. `large` and `small` train on labels; `distill` says how a student of the small one's network learns.

    `offline` computes a teacher's logits of each image once, without augmentation, so that it is not asked again.
    `finetune` goes on with the student of `teacher`, as a rule at a higher resolution (DeiT, section 5.1).
    `virtual` is the recipe of the teacher by hand; `poor_share` the share of its steps that the poor teacher makes.
    """

    data: PackConfig
    large: TrainConfig
    small: TrainConfig
    distill: TrainConfig
    directions: tuple[Literal["teacher", "itself", "virtual", "reversed", "poor"], ...] = ("teacher",)
    virtual: KnowledgeDistillation = KnowledgeDistillation(virtual=True, temperature=20.0, alpha=0.5)
    poor_share: float = 0.1
    finetune: TrainConfig | None = None
    offline: bool = False
    evaluate: EvaluateConfig = EvaluateConfig()
    resources: Resources = Resources()
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("large", "small"):
            require(isinstance(getattr(self, name).method, Supervised), name, "its method must be supervised")
        require(self.distill.method.needs_teacher, "distill", f"{self.distill.method.name} has no teacher")
        require(self.virtual.virtual, "virtual", "virtual must be true in it")
        require(len(self.directions) > 0, "directions", "must name at least one")
        if self.finetune is not None:
            require(self.finetune.model == self.distill.model, "finetune", "its model must be that of distill")
            require(
                "teacher" in self.directions, "finetune", "goes on with a student of `teacher`: name it in directions"
            )
        require(0 < self.poor_share < 1, "poor_share", "must lie between 0 and 1")


def build(config: Config) -> list[Stage]:
    """The graph. The last target is the report."""
    seed = config.seed
    source = dataclasses.replace(config.data, seed=seed)
    data = stage(pack, source, name="data", content=partial(content, source))

    def trained(name: str, settings: TrainConfig, **inputs: Any) -> Stage:
        settings = dataclasses.replace(settings, seed=seed)
        return stage(train, settings, name=name, resources=config.resources, data=data, **inputs)

    def taught(name: str, settings: TrainConfig, teacher: Stage) -> Stage:
        if not config.offline:
            return trained(name, settings, teacher=teacher)
        spoken = ExtractConfig(splits=("labeled",), output="logits")
        logits = stage(extract, spoken, name=f"{name}/logits", resources=config.resources, model=teacher, data=data)
        return trained(name, settings, features=logits)

    large, small = trained("large", config.large), trained("small", config.small)
    networks = {"large": large, "small": small}
    for direction in config.directions:
        if direction == "teacher":
            networks["student"] = taught("student", config.distill, large)
        elif direction == "itself":
            networks[direction] = taught("itself", config.distill, small)
        elif direction == "virtual":
            networks[direction] = trained("virtual", dataclasses.replace(config.small, method=config.virtual))
        elif direction == "reversed":
            networks[direction] = taught("reversed", enlarged(config), small)
        else:
            poor = trained("poor_teacher", shortened(config.large, config.poor_share))
            networks["poor_teacher"] = poor
            networks[direction] = taught("poor", enlarged(config), poor)
    if config.finetune is not None:
        teaches = {"teacher": large} if config.finetune.method.needs_teacher else {}
        networks["finetune"] = trained("finetune", config.finetune, init=networks["student"], **teaches)
    reports: dict[str, Any] = {
        f"{name}_test": stage(evaluate, config.evaluate, name=f"{model.name}/evaluate", model=model, data=data)
        for name, model in networks.items()
    }
    settings = ComparisonConfig(networks=tuple(networks), baseline="small")
    return [stage(comparison, settings, name="report", **reports)]


def enlarged(config: Config) -> TrainConfig:
    """The student's training, of the large network."""
    return dataclasses.replace(config.distill, model=config.large.model)


def shortened(settings: TrainConfig, share: float) -> TrainConfig:
    """The same training with a share of its steps."""
    steps, epochs = settings.num_steps, settings.epochs
    return dataclasses.replace(
        settings, num_steps=steps and max(round(share * steps), 1), epochs=epochs and share * epochs
    )
