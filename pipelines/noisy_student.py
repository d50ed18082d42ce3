"""Noisy Student (Xie et al. 2020, arXiv:1911.04252, algorithm 1).

1. Train a teacher on the labelled images (from pre-trained weights, if the file says how); or make it of the class
   names alone, by CLIP's towers.
2. Let it score the unlabelled ones, without noise; keep the confident ones, balance the classes.
3. Train an equal or larger student on both, with noise.
4. The student becomes the teacher: back to 2.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

from sslscale.config import require
from sslscale.graph.dag import Stage, stage
from sslscale.graph.resources import Resources
from sslscale.methods.noisy_student import NoisyStudent
from sslscale.methods.supervised import Supervised
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.data import PackConfig
from sslscale.settings.model import ModelConfig
from sslscale.settings.pseudo import EvaluateConfig, ScoreConfig, SelectConfig
from sslscale.settings.robustness import RobustnessConfig
from sslscale.settings.text import ClipConfig, ZeroShotConfig, resolved
from sslscale.settings.train import OptimConfig, TrainConfig, images_of
from sslscale.stages import training
from sslscale.stages.evaluate import evaluate
from sslscale.stages.open_clip_weights import TowersConfig, open_towers
from sslscale.stages.open_clip_weights import content as towers_content
from sslscale.stages.pack import content, pack
from sslscale.stages.robustness import robustness
from sslscale.stages.score import score
from sslscale.stages.select import select
from sslscale.stages.shard import ShardConfig, shard
from sslscale.stages.summary import SummaryConfig, summary
from sslscale.stages.zero_shot import zero_shot


@dataclass(frozen=True, kw_only=True)
class HighResolution:
    """The last epochs at a higher resolution, on labelled images without noise, shallow layers fixed (section 4.1)."""

    size: int
    epochs: float = 1.5
    lr: float = 0.01
    batch_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one student has of its own; null takes the value of `student`."""

    model: ModelConfig | None = None
    image_size: int | None = None
    unlabeled_ratio: int | None = None
    batch_size: int | None = None
    num_steps: int | None = None
    epochs: float | None = None
    lr: float | None = None
    warm_start: bool | None = None
    high_resolution: HighResolution | None = None


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Resources of the two kinds of stage that are heavy."""

    data: Resources = Resources()
    train: Resources = Resources()
    score: Resources = Resources()


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. `warm_start` gives a student its teacher's weights; the paper trains it from scratch.

    `pretrain` makes the teacher's first weights from every image, labels unread. `robustness` measures the
    teacher and the last student, whose mCE and mFR are then relative to the teacher's.

    `clip` instead of `teacher` takes CLIP's towers, and the classifier that `zero_shot` makes of the class names, as
    the first teacher. Its first student may be smaller. With `student.method.labels: false` no label is needed.
    """

    data: PackConfig
    teacher: TrainConfig | None = None
    clip: ClipConfig | None = None
    zero_shot: ZeroShotConfig = ZeroShotConfig()
    student: TrainConfig
    pretrain: TrainConfig | None = None
    rounds: tuple[Round, ...] = (Round(), Round(), Round())
    score: ScoreConfig = ScoreConfig()
    select: SelectConfig = SelectConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    robustness: RobustnessConfig | None = None
    materialize: bool = True
    warm_start: bool = False
    resources: Workers = Workers()
    seed: int = 0

    def __post_init__(self) -> None:
        require((self.teacher is None) != (self.clip is None), "teacher", "give teacher or clip, and not both")
        own = self.teacher is None or isinstance(self.teacher.method, Supervised)
        require(own, "teacher", "its method must be supervised")
        require(isinstance(self.student.method, NoisyStudent), "student", "its method must be noisy_student")
        if self.pretrain is not None:
            require(self.teacher is not None, "pretrain", "is for a teacher that is trained")
            assert self.teacher is not None
            same = self.pretrain.model.name == self.teacher.model.name
            require(same, "pretrain", f"its model must be the teacher's, {self.teacher.model.name}")
        require(len(self.rounds) > 0, "rounds", "must name at least one student")


def build(config: Config) -> list[Stage]:
    """The graph. The last target is the report."""
    seed = config.seed
    source = config.data.seen_by(images_of(config), seed=seed)
    workers = config.resources
    data = stage(pack, source, name="data", resources=workers.data, content=partial(content, source))

    def test(name: str, model: Stage) -> Stage:
        return stage(evaluate, config.evaluate, name=f"{name}/evaluate", model=model, data=data)

    first = teacher = _first_teacher(config, data)
    reports: dict[str, Any] = {"teacher_report": test("teacher", teacher)}
    selections: dict[str, Any] = {}
    earlier: Stage | None = None
    for number, own in enumerate(config.rounds, 1):
        name = f"student_{number}"
        scores = stage(score, config.score, name=f"{name}/score", resources=workers.score, teacher=teacher, data=data)
        settings = dataclasses.replace(config.select, seed=1000 * seed + number)
        compared: dict[str, Any] = {} if earlier is None else {"earlier": earlier}
        chosen = stage(select, settings, name=f"{name}/select", scores=scores, data=data, **compared)
        earlier = scores
        if config.materialize:
            shards = stage(
                shard, ShardConfig(), name=f"{name}/shard", resources=workers.score, selection=chosen, data=data
            )
            pseudo: dict[str, Any] = {"pseudo": shards}
        else:
            pseudo = {"selection": chosen}
        if config.clip is None or number > 1:
            pseudo["at_least"] = teacher
        if config.warm_start if own.warm_start is None else own.warm_start:
            pseudo["init"] = teacher
        student = training(
            student_config(config.student, own, 1000 * seed + number),
            name=name,
            resources=workers.train,
            data=data,
            **pseudo,
        )
        if own.high_resolution is not None:
            student = training(
                high_resolution_config(student.config, own.high_resolution),
                name=f"{name}/high_resolution",
                resources=workers.train,
                data=data,
                init=student,
            )
        reports[f"{name}_report"] = test(name, student)
        selections[f"{name}_selection"] = chosen
        teacher = student
    if config.robustness is not None:
        settings = dataclasses.replace(config.robustness, seed=seed, split=config.evaluate.split)
        base = stage(robustness, settings, name="teacher/robustness", model=first, data=data)
        last = f"student_{len(config.rounds)}"
        reports["teacher_robustness"] = base
        reports[f"{last}_robustness"] = stage(
            robustness, settings, name=f"{last}/robustness", model=teacher, data=data, baseline=base
        )
    names = ("teacher", *(f"student_{number}" for number in range(1, len(config.rounds) + 1)))
    settings = SummaryConfig(names=names, split=config.evaluate.split)
    return [stage(summary, settings, name="report", **reports, **selections)]


def _first_teacher(config: Config, data: Stage) -> Stage:
    """A network that is trained on the labels, or CLIP's image tower with the class names."""
    seed, workers = config.seed, config.resources
    if config.clip is not None:
        origin = TowersConfig(source=config.clip)
        towers = stage(open_towers, origin, name="clip", content=partial(towers_content, origin))
        return stage(zero_shot, resolved(config.zero_shot), name="teacher", model=towers, data=data)
    assert config.teacher is not None
    first_weights: dict[str, Any] = {}
    if config.pretrain is not None:
        settings = dataclasses.replace(config.pretrain, seed=seed)
        first_weights["init"] = training(settings, name="pretrain", resources=workers.train, data=data)
    settings = dataclasses.replace(config.teacher, seed=seed)
    return training(settings, name="teacher", resources=workers.train, data=data, **first_weights)


def student_config(student: TrainConfig, own: Round, seed: int) -> TrainConfig:
    """The student's training with what this round has of its own."""
    changes = {n: getattr(own, n) for n in ("model", "batch_size") if getattr(own, n) is not None}
    if own.image_size is not None:
        changes["image"] = dataclasses.replace(student.image, size=own.image_size)
    if own.num_steps is not None or own.epochs is not None:
        changes |= {"num_steps": own.num_steps, "epochs": own.epochs}
    if own.lr is not None:
        changes["optim"] = dataclasses.replace(student.optim, lr=own.lr)
    if own.unlabeled_ratio is not None:
        assert isinstance(student.method, NoisyStudent)
        changes["method"] = dataclasses.replace(student.method, unlabeled_ratio=own.unlabeled_ratio)
    return dataclasses.replace(student, seed=seed, **changes)


def high_resolution_config(student: TrainConfig, high: HighResolution) -> TrainConfig:
    """Supervised fine-tuning of the last stage at `size`, with the student's crop and flip alone."""
    assert isinstance(student.method, NoisyStudent)
    plain = AugmentConfig(
        crop=student.augment.crop,
        padding=student.augment.padding,
        scale=student.augment.scale,
        flip=student.augment.flip,
    )
    return dataclasses.replace(
        student,
        method=Supervised(label_smoothing=student.method.label_smoothing, ema=student.method.ema),
        image=dataclasses.replace(student.image, size=high.size),
        augment=plain,
        optim=OptimConfig(name="sgd", lr=high.lr, weight_decay=student.optim.weight_decay),
        batch_size=high.batch_size or student.batch_size,
        num_steps=None,
        epochs=high.epochs,
        trainable="last_stage",
        init=None,
        freeze_backbone_steps=0,
    )
