"""Self-supervised pre-training, and what came of it.

1. Pre-train a network on every training image, labels unread; go on at a higher resolution, if the file says so.
2. Freeze it; fit kNN and a linear classifier to the labelled images' features; measure both on the test split.
3. The same for the network before training, and for public weights that it began with: what is above them was learned.
4. Fine-tune the whole network on the labels, if the file says so.
5. Draw where a vision transformer looks.

Images without any label are pre-trained on; steps 2 to 5, which need labels, are left out then, and the plan says so.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

from sslscale.config import require
from sslscale.graph.dag import Stage, stage
from sslscale.graph.resources import Resources
from sslscale.methods.supervised import Supervised
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.data import PackConfig
from sslscale.settings.features import AttentionConfig, ExtractConfig
from sslscale.settings.probe import ProbeConfig
from sslscale.settings.pseudo import EvaluateConfig
from sslscale.settings.train import TrainConfig, images_of
from sslscale.stages import training
from sslscale.stages.attention import attention
from sslscale.stages.evaluate import evaluate
from sslscale.stages.extract import extract
from sslscale.stages.initialize import initialize
from sslscale.stages.pack import content, is_labeled, pack
from sslscale.stages.probe import probe


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Resources of the stages that are heavy."""

    data: Resources = Resources()
    train: Resources = Resources()
    extract: Resources = Resources()


@dataclass(frozen=True, kw_only=True)
class HighResolution:
    """A short training of the same method with larger views (DINOv2, arXiv:2304.07193, section 3): all of it goes on,
    teachers, heads and queues too. `scale` multiplies the side of every view."""

    scale: float
    epochs: float
    lr: float
    batch_size: int | None = None

    def __post_init__(self) -> None:
        require(self.scale > 1, "scale", "must be above 1")
        require(self.epochs > 0, "epochs", "must be positive")
        require(self.lr > 0, "lr", "must be positive")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. `finetune` must build the network that `pretrain` trains."""

    data: PackConfig
    pretrain: TrainConfig
    high_resolution: HighResolution | None = None
    extract: ExtractConfig = ExtractConfig(splits=("labeled", "test"))
    attention: AttentionConfig = AttentionConfig()
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


def notes(config: Config) -> list[str]:
    """What the graph leaves out, and why."""
    if is_labeled(config.data):
        return []
    parts = ["the probes", *(["fine-tuning"] if config.finetune is not None else [])]
    return [f"{config.data.source} has no labels: {' and '.join(parts)} are left out; data.labels names a file of them"]


def build(config: Config) -> list[Stage]:
    """The graph."""
    seed = config.seed
    source = config.data.seen_by(images_of(config), seed=seed)
    settings = dataclasses.replace(config.pretrain, seed=seed)
    judged = dataclasses.replace(config.probe, seed=seed)
    data = stage(pack, source, name="data", resources=config.resources.data, content=partial(content, source))
    if config.high_resolution is not None:
        settings = dataclasses.replace(settings, keep_method=True)
    first = trained = training(settings, name="pretrain", resources=config.resources.train, data=data)
    if config.high_resolution is not None:
        trained = training(
            high_resolution_config(settings, config.high_resolution),
            name="pretrain/high_resolution",
            resources=config.resources.train,
            data=data,
            init=trained,
        )
    if not is_labeled(config.data):
        return [trained]
    targets = []
    if config.pretrain.model.name.startswith("vit_"):
        targets.append(stage(attention, config.attention, name="pretrain/attention", model=trained, data=data))
    random = stage(initialize, dataclasses.replace(config.pretrain, seed=seed), name="random", data=data)
    models = {"random": random, "pretrain": trained}
    if config.pretrain.init is not None:
        models = {"pretrain/init": first.inputs["init"], **models}
    for name, model in models.items():
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
        tuned = training(
            dataclasses.replace(config.finetune, seed=seed),
            name="finetune",
            resources=config.resources.train,
            data=data,
            init=trained,
        )
        targets.append(stage(evaluate, config.evaluate, name="finetune/evaluate", model=tuned, data=data))
    return targets


def high_resolution_config(first: TrainConfig, high: HighResolution) -> TrainConfig:
    """The same training with larger views, a rate of its own and no warm-up."""

    def larger(view: AugmentConfig) -> AugmentConfig:
        if view.size is None:
            return view
        return dataclasses.replace(view, size=round(view.size * high.scale))

    schedule = dataclasses.replace(first.optim.schedule, warmup_steps=0)
    return dataclasses.replace(
        first,
        method=first.method.without_warmup(),
        image=dataclasses.replace(first.image, size=round(first.image.size * high.scale), short_side=None),
        augment=larger(first.augment),
        views={name: larger(view) for name, view in first.views.items()},
        optim=dataclasses.replace(first.optim, lr=high.lr, schedule=schedule),
        batch_size=high.batch_size or first.batch_size,
        num_steps=None,
        epochs=high.epochs,
        keep_method=False,
        init=None,
        freeze_backbone_steps=0,
    )
