"""Distillation: what a student gains from a teacher, from a smaller one, from a poor one, and from none.

1. Train a large network and a small one on the labels; both are what the others are compared with. Or open a network
   that is there already: a checkpoint, or a model of timm.
2. `teacher`: that, or the large one, teaches a new small one (Hinton et al. 2015; DeiT, if that is its method).
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
from sslscale.graph.dag import Stage, stage
from sslscale.graph.resources import Resources
from sslscale.methods.knowledge_distillation import KnowledgeDistillation
from sslscale.methods.supervised import Supervised
from sslscale.settings.data import PackConfig
from sslscale.settings.features import ExtractConfig
from sslscale.settings.pseudo import EvaluateConfig
from sslscale.settings.teacher import TeacherConfig, TimmConfig
from sslscale.settings.train import TrainConfig, images_of
from sslscale.stages import open_checkpoint, open_timm, training
from sslscale.stages.comparison import ComparisonConfig, comparison
from sslscale.stages.evaluate import evaluate
from sslscale.stages.extract import extract
from sslscale.stages.pack import content, pack


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. `large` and `small` train on labels; `distill` says how a student of the small one's network learns.

    `teacher` is a network that is there already; `large` is then needed for the directions `reversed` and `poor` alone.
    `offline` computes a teacher's logits of each image once, without augmentation, so that it is not asked again.
    `finetune` goes on with the student of `teacher`, as a rule at a higher resolution (DeiT, section 5.1).
    `virtual` is the recipe of the teacher by hand; `poor_share` the share of its steps that the poor teacher makes.
    """

    data: PackConfig
    small: TrainConfig
    distill: TrainConfig
    large: TrainConfig | None = None
    teacher: TeacherConfig | None = None
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
            own = getattr(self, name)
            require(own is None or isinstance(own.method, Supervised), name, "its method must be supervised")
        wanted = {"reversed", "poor"} & {*self.directions}
        require(self.large is not None or not wanted, "large", f"is needed for {' and '.join(sorted(wanted))}")
        taught = self.large is not None or self.teacher is not None or "teacher" not in self.directions
        require(taught, "teacher", "give one, or a large network to train as one")
        require(self.teacher is None or "teacher" in self.directions, "teacher", "is not among the directions")
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
    source = config.data.seen_by(images_of(config), seed=seed)
    data = stage(pack, source, name="data", resources=config.resources, content=partial(content, source))

    def trained(name: str, settings: TrainConfig, **inputs: Any) -> Stage:
        settings = dataclasses.replace(settings, seed=seed)
        return training(settings, name=name, resources=config.resources, data=data, **inputs)

    def taught(name: str, settings: TrainConfig, teacher: Stage) -> Stage:
        if not config.offline:
            return trained(name, settings, teacher=teacher)
        spoken = ExtractConfig(splits=("labeled",), output="logits")
        logits = stage(extract, spoken, name=f"{name}/logits", resources=config.resources, model=teacher, data=data)
        return trained(name, settings, features=logits)

    networks = {} if config.large is None else {"large": trained("large", config.large)}
    networks["small"] = small = trained("small", config.small)
    teacher = networks.get("large")
    if config.teacher is not None:
        networks["teacher"] = teacher = opened(config.teacher, config.distill, data)
    for direction in config.directions:
        if direction == "teacher":
            assert teacher is not None
            networks["student"] = taught("student", config.distill, teacher)
        elif direction == "itself":
            networks[direction] = taught("itself", config.distill, small)
        elif direction == "virtual":
            networks[direction] = trained("virtual", dataclasses.replace(config.small, method=config.virtual))
        else:
            assert config.large is not None
            enlarged = dataclasses.replace(config.distill, model=config.large.model)
            if direction == "reversed":
                networks[direction] = taught("reversed", enlarged, small)
            else:
                poor = trained("poor_teacher", shortened(config.large, config.poor_share))
                networks["poor_teacher"] = poor
                networks[direction] = taught("poor", enlarged, poor)
    if config.finetune is not None:
        assert teacher is not None
        teaches = {"teacher": teacher} if config.finetune.method.needs_teacher else {}
        networks["finetune"] = trained("finetune", config.finetune, init=networks["student"], **teaches)
    reports: dict[str, Any] = {
        f"{name}_test": stage(evaluate, config.evaluate, name=f"{model.name}/evaluate", model=model, data=data)
        for name, model in networks.items()
    }
    settings = ComparisonConfig(networks=tuple(networks), baseline="small")
    return [stage(comparison, settings, name="report", **reports)]


def opened(config: TeacherConfig, student: TrainConfig, data: Stage) -> Stage:
    """The network that is there already, as a checkpoint of this root."""
    if config.checkpoint is not None:
        origin = open_checkpoint.CheckpointConfig(path=config.checkpoint)
        found = partial(open_checkpoint.content, origin)
        return stage(open_checkpoint.open_checkpoint, origin, name="teacher", content=found)
    assert config.timm is not None
    image = config.image or student.image
    model = TimmConfig(name=config.timm, image=image, weights=config.weights, classes=config.classes)
    return stage(open_timm.open_timm, model, name="teacher", content=partial(open_timm.content, model), data=data)


def shortened(settings: TrainConfig, share: float) -> TrainConfig:
    """The same training with a share of its steps."""
    steps, epochs = settings.num_steps, settings.epochs
    return dataclasses.replace(
        settings, num_steps=steps and max(round(share * steps), 1), epochs=epochs and share * epochs
    )
