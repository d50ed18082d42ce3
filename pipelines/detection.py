"""Detection and segmentation, transferred and self-trained: pre-training against self-training (Zoph et al. 2020,
arXiv:2006.06882), as labels and augmentation grow.

1. Pack annotated images, COCO's or PASCAL VOC's, and unlabelled ones beside them; with `pretrain`, pre-train a backbone
   on all of them, annotations unread, or on the images of `pretrain_data`, by their classes if its method reads them.
2. For each share of the labels and each strength of augmentation S1, S2, ...:
   `random`: train the detector from random weights; `pretrained`: from the pre-trained backbone;
   `self_trained`: let `random` find objects in the unlabelled images, and train anew, from random weights, on both;
   `joint`: the same from the pre-trained backbone, with `pretrained` as the teacher;
   `classified`: train on the annotations and on the classes of `pretrain_data` at once, from random weights.
3. Measure all on the test split: COCO's average precisions, or mIoU; show them in one table.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sslscale.config import require
from sslscale.graph.dag import Stage, stage
from sslscale.graph.resources import Resources
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.data import PackConfig
from sslscale.settings.detection import DetectConfig, PseudoBoxConfig
from sslscale.settings.kinds import Scenes
from sslscale.settings.train import TrainConfig, images_of
from sslscale.stages import training
from sslscale.stages.detect import detect
from sslscale.stages.find_objects import find_objects
from sslscale.stages.grid import GridConfig, grid
from sslscale.stages.pack import content, has_test, pack


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run.

    `detector` trains on annotations, by `detection`; `student`, by `detection_self_training`, on a teacher's boxes too;
    `classified`, by `detection_classification`, on the classes of `pretrain_data` too: all with one network. Without
    `pretrain`, `student` or `classified` their rows are left out. `strengths` are augmentations that take the place of
    the scenes' own, S1 first.
    """

    data: PackConfig
    pretrain_data: PackConfig | None = None
    pretrain: TrainConfig | None = None
    detector: TrainConfig
    student: TrainConfig | None = None
    classified: TrainConfig | None = None
    strengths: tuple[AugmentConfig, ...] = ()
    label_fractions: tuple[float, ...] = (1.0,)
    find: PseudoBoxConfig = PseudoBoxConfig()
    detect: DetectConfig = DetectConfig()
    resources: Resources = field(default=Resources())
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("detector", "student", "classified"):
            settings = getattr(self, name)
            require(settings is None or isinstance(settings.method, Scenes), name, "its method must be detection")
        taught = self.student is not None
        streams = {stream.name for stream in self.student.method.streams} if self.student is not None else set()
        require(not taught or "pseudo" in streams, "student", "its method must be detection_self_training")
        bare = self.data.source.startswith(("coco:", "voc:")) and self.data.unlabeled is None
        require(not (taught and bare), "data.unlabeled", "is missing: a folder of images for the student")
        for name in ("pretrain", "student", "classified"):
            other = getattr(self, name)
            same = other is None or other.model == self.detector.model
            require(same, name, f"its model must be {self.detector.model.name}, as that of detector")
        others = {stream.name for stream in self.classified.method.streams} if self.classified is not None else set()
        known = self.classified is None or "classified" in others
        require(known, "classified", "its method must be detection_classification")
        asked = self.classified is None or self.pretrain_data is not None
        require(asked, "pretrain_data", "is missing: the images that `classified` learns from")
        alone = self.pretrain_data is not None and self.pretrain is None and self.classified is None
        require(not alone, "pretrain_data", "is for pretrain or classified, which are missing")
        both = (self.detector.init is not None, self.pretrain is not None)
        require(not all(both), "detector.init", "its first weights are those of pretrain")
        require(len(self.label_fractions) > 0, "label_fractions", "must name at least one share")
        require(all(0 < f <= 1 for f in self.label_fractions), "label_fractions", "must lie in (0, 1]")


def notes(config: Config) -> list[str]:
    """What the graph leaves out, and why."""
    return [] if has_test(config.data) else ["the data has no test split: nothing is measured; see data.test"]


def _other_images(config: Config) -> Stage | None:
    if config.pretrain_data is None:
        return None
    source = dataclasses.replace(config.pretrain_data, seed=config.seed)
    packed = partial(content, source)
    return stage(pack, source, name="pretrain/data", resources=config.resources, content=packed)


def _pretraining(config: Config, data: Stage) -> Stage:
    """The training of a backbone, on the scenes or on other images."""
    assert config.pretrain is not None
    settings = dataclasses.replace(config.pretrain, seed=config.seed)
    return training(settings, name="pretrain", resources=config.resources, data=data)


def build(config: Config) -> list[Stage]:
    """The graph. The last target is the report."""
    seed, own = config.seed, config.resources
    source = config.data.seen_by(images_of(config), seed=seed)
    data = stage(pack, source, name="data", resources=own, content=partial(content, source))

    def trained(name: str, settings: TrainConfig, **inputs: Any) -> Stage:
        return training(dataclasses.replace(settings, seed=seed), name=name, resources=own, data=data, **inputs)

    others = _other_images(config)
    starts: dict[str, dict[str, Stage]] = {"random": {}}
    if config.pretrain is not None:
        starts["pretrained"] = {"init": _pretraining(config, others or data)}
    goals = {"random": "self_trained", "pretrained": "joint"}
    strengths = dict(enumerate(config.strengths, 1)) or {0: None}
    networks: dict[str, Stage] = {}
    for fraction in config.label_fractions:
        for number, strength in strengths.items():
            where = f"S{number}_{100 * fraction:g}pct" if number else f"all_{100 * fraction:g}pct"
            changed: dict[str, Any] = {"label_fraction": fraction}
            changed |= {} if strength is None else {"augment": strength}
            for start, first in starts.items():
                teacher = trained(f"{where}_{start}", dataclasses.replace(config.detector, **changed), **first)
                networks[f"{where}_{start}"] = teacher
                if config.student is None:
                    continue
                name = f"{where}_{goals[start]}"
                found = stage(find_objects, config.find, name=f"{name}/find", resources=own, teacher=teacher, data=data)
                student = dataclasses.replace(config.student, **changed)
                networks[name] = trained(name, student, detections=found, **first)
            if config.classified is not None:
                joint = dataclasses.replace(config.classified, **changed)
                networks[f"{where}_classified"] = trained(f"{where}_classified", joint, classified=others)
    if not has_test(config.data):
        return list(networks.values())
    settings = dataclasses.replace(config.detect, seed=seed)
    reports: dict[str, Any] = {
        name: stage(detect, settings, name=f"{name}/detect", resources=own, model=model, data=data)
        for name, model in networks.items()
    }
    shares = {f"{100 * fraction:g}pct": f"{100 * fraction:g} % of the labels" for fraction in config.label_fractions}
    every = ("random", "pretrained", "self_trained", "joint", "classified")
    rows = [row for row in every if any(name.endswith(f"pct_{row}") for name in networks)]
    columns = tuple(f"S{number}" if number else "all" for number in strengths)
    semantic = isinstance(config.detector.method, Scenes) and config.detector.method.detector.semantic
    shown = GridConfig(
        panels=tuple(shares.items()), columns=columns, rows=tuple(rows), metric="miou" if semantic else "ap"
    )
    return [stage(grid, shown, name="report", **reports)]
