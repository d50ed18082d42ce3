"""Settings of one training: optimiser, schedule, batch, length."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from sslscale.config import require
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.first_weights import InitConfig
from sslscale.settings.method import MethodSettings
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.pixels import RGB
from sslscale.settings.streams import OBJECT_FIELDS, StreamSpec


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate relative to its peak: linear warm-up, then cosine, steps, exponential decay or constant.

    `cosine_7_16` is FixMatch's cos(7 pi / 16 t), which ends at a fifth of the peak (arXiv:2001.07685, section 2.3).
    For step, each of the `milestones` (shares of the training) multiplies the rate by `decay`; exponential multiplies
    it by `decay` every `decay_steps` steps (EfficientNet: .97 every 2.4 epochs).
    """

    name: Literal["cosine", "cosine_7_16", "step", "exponential", "constant"] = "cosine"
    warmup_steps: int = 0
    final: float = 0.0
    milestones: tuple[float, ...] = (0.3, 0.6, 0.9)
    decay: float = 0.1
    decay_steps: int = 1000

    def __post_init__(self) -> None:
        require(self.warmup_steps >= 0, "warmup_steps", "must be 0 or more")
        require(0 <= self.final <= 1, "final", "is a share of the peak, 0 to 1")
        require(list(self.milestones) == sorted(self.milestones), "milestones", "must rise")
        require(all(0 < m < 1 for m in self.milestones), "milestones", "are shares of the training, 0 to 1")
        require(0 < self.decay <= 1, "decay", "must lie in (0, 1]")
        require(self.decay_steps > 0, "decay_steps", "must be positive")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimiser. `lr` is the peak learning rate for the global batch; biases and norms are not decayed.

    `lars` (SimCLR's for large batches) also excludes them from its scaling; `trust` is its coefficient. `layer_decay`
    below 1 multiplies the learning rate of each block once for every block above it (fine-tuning a ViT: .65 to .75,
    arXiv:2111.06377). `bias_lr` is the peak for biases and norms if it differs from `lr`. `final_weight_decay` is the
    value that a cosine takes the weight decay to.
    """

    name: Literal["sgd", "lars", "adamw", "rmsprop"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    betas: tuple[float, float] = (0.9, 0.999)  # of adamw
    bias_lr: float | None = None
    weight_decay: float = 5e-4
    final_weight_decay: float | None = None
    trust: float = 0.001
    layer_decay: float = 1.0
    clip_norm: float | None = None
    schedule: ScheduleConfig = ScheduleConfig()

    def __post_init__(self) -> None:
        require(self.lr > 0, "lr", "must be positive")
        require(0 <= self.momentum < 1, "momentum", "must lie in [0, 1)")
        require(self.weight_decay >= 0, "weight_decay", "must be 0 or more")
        require(all(0 <= beta < 1 for beta in self.betas), "betas", "must lie in [0, 1)")
        require(self.bias_lr is None or self.bias_lr > 0, "bias_lr", "must be positive")
        require((self.final_weight_decay or 0) >= 0, "final_weight_decay", "must be 0 or more")
        require(self.trust > 0, "trust", "must be positive")
        require(0 < self.layer_decay <= 1, "layer_decay", "must lie in (0, 1]")
        require(self.clip_norm is None or self.clip_norm > 0, "clip_norm", "must be positive")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training. `batch_size` is global and counts images of the method's first stream; workers divide it, and the
    results do not depend on their number.
    """

    method: MethodSettings
    model: ModelConfig
    image: ImageConfig
    augment: AugmentConfig = AugmentConfig()  # of every view that `views` does not name
    views: dict[str, AugmentConfig] = field(default_factory=dict)  # second, local, strong, ...: what the method has
    optim: OptimConfig = OptimConfig()
    batch_size: int = 256
    num_steps: int | None = None
    epochs: float | None = None  # passes over the images of the method's first stream
    accumulate: int = 1  # parts of a batch that go through the network one after another; batch norm sees a part
    sync_batch_norm: bool = False
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = field(default=False, metadata={"identity": False})  # torch.compile: needs a C++ compiler on a CPU
    # the same bits in every run on the same GPU: slower kernels; an operation that has none is an error
    deterministic: bool = field(default=False, metadata={"identity": False})
    trainable: Literal["all", "last_stage"] = "all"  # last_stage: FixRes, the shallow layers stay
    keep_method: bool = False  # with heads, teachers and queues, so that another training can go on with it
    splits: tuple[Literal["labeled", "unlabeled"], ...] = (
        "labeled",
        "unlabeled",
    )  # read by `images`, `mixed` and `unlabeled`
    init: InitConfig | None = field(default=None, metadata={"new": True})  # the weights to begin with
    # first steps in which the backbone stays and heads alone learn, so that new heads do not spoil given weights
    freeze_backbone_steps: int = field(default=0, metadata={"new": True})
    continues: str | None = None  # TUNE_FOLDER/states/KEY@STEP below the root: a state that this training takes up
    label_fraction: float = 1.0  # share of each class's labelled images that is used, one at least; drawn by the seed
    # steps whose gradients are not finite and that may be passed over; one more stops the training
    max_skipped_steps: int = field(default=0, metadata={"identity": False})
    seed: int = field(default=0, metadata={"hidden": True})
    log_every: int = field(default=50, metadata={"identity": False})
    save_every: int = field(default=500, metadata={"identity": False})
    monitor_every: int = field(default=0, metadata={"identity": False})  # kNN accuracy every so many steps; 0: never
    monitor_images: int = field(default=2500, metadata={"identity": False})  # labelled training images it looks at
    version: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", self.model.fitted(self.image))
        size = self.augment.size or self.image.size
        self._require_whole_patches()
        self._require_colours()
        unsupported = self.method.unsupported_model(self.model, size)
        require(unsupported is None, "model", unsupported or "")
        reads = any("transcript" in stream.fields for stream in self.method.streams)
        text = "gives the lines of text their width" if reads else "is for methods that read lines of text"
        require((self.image.width is not None) == reads, "image.width", text)
        require(reads or not self.model.name.startswith("crnn_"), "model.name", "crnn is for lines of text")
        self._require_views()
        require(self.batch_size > 0, "batch_size", "must be positive")
        require((self.num_steps is None) != (self.epochs is None), "num_steps", "give either num_steps or epochs")
        require(self.num_steps is None or self.num_steps > 0, "num_steps", "must be positive")
        require(self.epochs is None or self.epochs > 0, "epochs", "must be positive")
        require(self.accumulate > 0, "accumulate", "must be 1 or more")
        require(self.batch_size % max(self.accumulate, 1) == 0, "accumulate", "must divide batch_size")
        unsupported = self.method.unsupported_batch(self.batch_size)
        require(unsupported is None, "batch_size", unsupported or "")
        why = self.method.accumulation_error
        require(self.accumulate == 1 or not why, "accumulate", f"{self.method.name} needs its batch at once: {why}")
        require(len(self.splits) > 0, "splits", "must name at least one split")
        outside = self.continues is not None and (self.continues.startswith("/") or ".." in self.continues)
        require(not outside, "continues", "is a folder below the root")
        require(0 < self.label_fraction <= 1, "label_fraction", "must lie in (0, 1]")
        require(self.freeze_backbone_steps >= 0, "freeze_backbone_steps", "must be 0 or more")
        require(self.max_skipped_steps >= 0, "max_skipped_steps", "must be 0 or more")
        require(self.log_every > 0, "log_every", "must be positive")
        require(self.save_every > 0, "save_every", "must be positive")
        require(self.monitor_every >= 0, "monitor_every", "must be 0 (never) or more")
        require(self.monitor_images >= 10, "monitor_images", "must be 10 or more")

    def _require_views(self) -> None:
        known = {view.name: view for stream in self.method.streams for view in stream.views}
        for name in self.views:
            near = "".join(f"; did you mean {found!r}?" for found in difflib.get_close_matches(name, known, 1, 0.5))
            text = f"{self.method.name} has no such view{near}; its views: {', '.join(known)}"
            require(name in known, f"views.{name}", text)
        for name, view in known.items():
            text = f"{self.method.name} needs views.{name}: how its {name} views are made"
            require(not view.required or name in self.views, "views", text)
        for stream in self.method.streams:
            objects = bool(set(stream.fields) & set(OBJECT_FIELDS))
            for view in self.views_of(stream):
                if objects:
                    text = f"of {stream.name}: images with objects take none or scale, not {view.crop}"
                    require(view.crop in ("none", "scale"), "augment.crop", text)
                    require(view.count == 1, "augment.count", f"of {stream.name}: images with objects have one view")
                else:
                    require(view.crop != "scale", "augment.crop", "scale is for images with objects")

    def _require_colours(self) -> None:
        """That the images have the colours which the method and the views need."""
        own = self.image.pixels
        if own == RGB:
            return
        text = f"{self.method.name} takes 8-bit RGB images alone, not {own}"
        require(not self.method.rgb_only, "image.channels", text)
        if own.channels != 3:
            for name, view in {"augment": self.augment, **{f"views.{n}": v for n, v in self.views.items()}}.items():
                text = f"images of {own.channels} channel{'s' * (own.channels != 1)} have no hue: set it to 0"
                require(view.jitter is None or view.jitter.hue == 0, f"{name}.jitter.hue", text)

    def _require_whole_patches(self) -> None:
        patch = self.model.patch or 1
        sides = {"image": self.image.size, "augment": self.augment.size}
        sides |= {f"views.{name}": view.size for name, view in self.views.items()}
        for name, side in sides.items():
            require(
                side is None or side % patch == 0,
                f"{name}.size",
                f"is {side}, but must be a multiple of {patch}: {self.model.name}'s patches",
            )

    def steps(self, num_images: int) -> int:
        """The number of optimiser steps, with so many images in the method's first stream."""
        if self.num_steps is not None:
            return self.num_steps
        assert self.epochs is not None
        return max(round(self.epochs * num_images / self.batch_size), 1)

    @property
    def batch_sizes(self) -> dict[str, int]:
        """Samples of each of the method's streams in a global batch, the first stream first."""
        return {stream.name: stream.ratio * self.batch_size for stream in self.method.streams}

    def views_of(self, stream: StreamSpec) -> tuple[AugmentConfig, ...]:
        """How the views of a sample of this stream are made, in their order; `count` says how many of each."""
        made = []
        for view in stream.views:
            if view.name in self.views or not view.optional:
                augment = self.views.get(view.name, self.augment)
                made.append(dataclasses.replace(augment, count=augment.count * view.count))
        return tuple(made)

    def check_inputs(self, given: Collection[str]) -> str | None:
        """What is wrong with a stage that trains by these settings and is given these inputs; None if nothing is."""
        name, streams = self.method.name, self.method.streams
        fields = {field for stream in streams for field in stream.fields}
        sources = {stream.source for stream in streams}
        if ("pseudo" in sources) != bool({"pseudo", "selection", "detections"} & set(given)):
            return f"{name} {'reads' if 'pseudo' in sources else 'does not read'} pseudo-labelled images"
        if "clusters" in given and "labeled" not in sources:
            return f"{name} reads no labels, so none of clusters"
        if ("classified" in sources) != ("classified" in given):
            return f"{name} {'reads' if 'classified' in sources else 'does not read'} classified images beside its own"
        if ("text" in fields) != ("captions" in given):
            return f"{name} {'reads' if 'text' in fields else 'does not read'} captions"
        if ("sound" in fields) != ("sound" in given):
            return f"{name} {'reads' if 'sound' in fields else 'does not read'} the sound of clips"
        if ("transcript" in fields) != ("transcripts" in given):
            return f"{name} {'reads' if 'transcript' in fields else 'does not read'} transcripts"
        if "features" in fields and "features" not in given:
            return f"{name} reads the features of another network"
        if "features" in given and not fields & {"features", "teacher_logits"}:
            return f"{name} does not read features"
        taught = "teacher" in given or ("features" in given and "teacher_logits" in fields)
        if self.method.needs_teacher != taught:
            missing = "a teacher, or its logits, which it has none of" if self.method.needs_teacher else "no teacher"
            return f"{name} needs {missing}"
        return None


def images_of(config: Any) -> list[ImageConfig]:
    """The images of all trainings that a pipeline's settings hold."""
    return [value.image for value in vars(config).values() if isinstance(value, TrainConfig)]
