"""What a checkpoint is worth on shards of labelled images: `sslscale eval`.

1. Open the checkpoint and the shards, be they its own data's or another's.
2. Run the protocols asked for: frozen features judged by classifiers, retrieval and clustering; every layer;
   fine-tuning on shares of the labels; the classifier as it is; what it stands.
3. Show all of it on one page.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from sslscale.config import require
from sslscale.graph.dag import Stage, stage
from sslscale.graph.resources import Resources
from sslscale.settings.data import PackConfig, count_labeled
from sslscale.settings.detection import DetectConfig
from sslscale.settings.features import ExtractConfig
from sslscale.settings.finetune import FinetuneConfig
from sslscale.settings.model import read_info
from sslscale.settings.probe import LayerwiseConfig, ProbeConfig
from sslscale.settings.pseudo import EvaluateConfig, read_class_map
from sslscale.settings.robustness import RobustnessConfig
from sslscale.settings.sound import SoundConfig, SoundRetrievalConfig
from sslscale.settings.text import CaptionConfig, CaptionRetrievalConfig, ZeroShotConfig, resolved
from sslscale.settings.transfer import PatchKnnConfig, SegmentationConfig, TransferConfig
from sslscale.stages import open_checkpoint, training
from sslscale.stages.caption_retrieval import caption_retrieval
from sslscale.stages.captions import captions
from sslscale.stages.checkpoint_report import CheckpointReportConfig, checkpoint_report
from sslscale.stages.detect import detect
from sslscale.stages.evaluate import evaluate
from sslscale.stages.extract import extract
from sslscale.stages.initialize import initialize
from sslscale.stages.layerwise import layerwise
from sslscale.stages.pack import content, pack
from sslscale.stages.patch_knn import patch_knn
from sslscale.stages.probe import probe
from sslscale.stages.robustness import robustness
from sslscale.stages.sound_retrieval import sound_retrieval
from sslscale.stages.spectrograms import spectrograms
from sslscale.stages.zero_shot import zero_shot

_PROBES = ("knn", "linear", "sgd", "retrieval", "clustering")


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Resources of the kinds of stage that are heavy."""

    data: Resources = Resources()
    train: Resources = Resources()
    extract: Resources = Resources()


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole evaluation. `labels` are the shares of the labelled images that fine-tuning is given, `seeds` as often.

    `zero_shot` and `captions` (retrieval both ways) are for checkpoints with a text tower, `sound` (retrieval both
    ways, and shifts) for those with a sound tower; its spectrograms are to be made as those of the training.

    The last four are for annotated images (data.source coco:..., voc:...): `detect` measures a detector or segmentation
    network as it is; `detection` and `segmentation` train one above the checkpoint's backbone, and one above a random
    backbone, over `seeds`; `patches` classifies pixels by the nearest patches, beside those of a random backbone.

    `class_map` is a CSV (class of the data, class of the checkpoint) for test sets that hold some of its classes.
    """

    model: str
    data: PackConfig
    protocols: tuple[
        Literal[
            "knn",
            "linear",
            "sgd",
            "retrieval",
            "clustering",
            "layerwise",
            "finetune",
            "classify",
            "robustness",
            "zero_shot",
            "captions",
            "sound",
            "detect",
            "detection",
            "segmentation",
            "patches",
        ],
        ...,
    ] = ("knn", "linear")
    labels: tuple[float, ...] = (0.01, 0.1, 1.0)
    seeds: int = 1
    split: str = "test"
    class_map: str | None = None
    extract: ExtractConfig | None = None
    probe: ProbeConfig = ProbeConfig()
    layerwise: LayerwiseConfig = LayerwiseConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    robustness: RobustnessConfig = RobustnessConfig()
    zero_shot: ZeroShotConfig = ZeroShotConfig()
    captions: CaptionConfig = CaptionConfig()
    caption_retrieval: CaptionRetrievalConfig = CaptionRetrievalConfig()
    sound: SoundConfig = SoundConfig()
    sound_retrieval: SoundRetrievalConfig = SoundRetrievalConfig()
    detect: DetectConfig = DetectConfig()
    detection: TransferConfig = TransferConfig()
    segmentation: SegmentationConfig = SegmentationConfig()
    patches: PatchKnnConfig = PatchKnnConfig()
    resources: Workers = Workers()
    seed: int = 0

    def __post_init__(self) -> None:
        require(len(self.protocols) > 0, "protocols", "must name at least one")
        require(all(0 < share <= 1 for share in self.labels), "labels", "are shares, above 0 % to 100 %")
        require(len(self.labels) > 0 or "finetune" not in self.protocols, "labels", "names no share to fine-tune on")
        require(self.seeds > 0, "seeds", "must be positive")


def build(config: Config) -> list[Stage]:
    """The graph. The last target is the report."""
    seed, split = config.seed, config.split
    origin = open_checkpoint.CheckpointConfig(path=config.model)
    model = stage(
        open_checkpoint.open_checkpoint,
        origin,
        name="checkpoint",
        content=partial(open_checkpoint.content, origin),
    )
    source = config.data.seen_by(open_checkpoint.images_of(config.model), seed=config.data.seed)
    data = stage(pack, source, name="data", resources=config.resources.data, content=partial(content, source))
    reports: dict[str, Any] = {}
    probes = tuple(name for name in config.protocols if name in _PROBES)
    if probes:
        features = stage(
            extract,
            config.extract or ExtractConfig(splits=("labeled", split)),
            name="features",
            resources=config.resources.extract,
            model=model,
            data=data,
        )
        settings = dataclasses.replace(config.probe, protocols=probes, split=split, seed=seed)
        reports["probe"] = stage(probe, settings, name="probe/evaluate", features=features, data=data)
    if "layerwise" in config.protocols:
        settings = dataclasses.replace(config.layerwise, split=split, seed=seed)
        reports["layerwise"] = stage(layerwise, settings, name="layerwise/evaluate", model=model, data=data)
    if "classify" in config.protocols:
        settings = dataclasses.replace(config.evaluate, split=split, class_map=read_class_map(config.class_map))
        reports["classify"] = stage(evaluate, settings, name="classify/evaluate", model=model, data=data)
    if "zero_shot" in config.protocols:
        classifier = stage(zero_shot, resolved(config.zero_shot), name="zero_shot", model=model, data=data)
        settings = dataclasses.replace(config.evaluate, split=split)
        reports["zero_shot"] = stage(evaluate, settings, name="zero_shot/evaluate", model=classifier, data=data)
    if "captions" in config.protocols:
        text = read_info(Path(config.model)).text
        require(text is not None, "protocols", f"{config.model} has no text tower for captions")
        assert text is not None
        settings = dataclasses.replace(config.captions, splits=(split,), context=text.context)
        texts = stage(captions, settings, name="captions", resources=config.resources.data, data=data)
        settings = dataclasses.replace(config.caption_retrieval, split=split, seed=seed)
        reports["captions"] = stage(
            caption_retrieval, settings, name="captions/evaluate", model=model, data=data, captions=texts
        )
    if "sound" in config.protocols:
        require(read_info(Path(config.model)).sound is not None, "protocols", f"{config.model} has no sound tower")
        settings = dataclasses.replace(config.sound, splits=(split,))
        spectra = stage(spectrograms, settings, name="spectrograms", resources=config.resources.data, data=data)
        settings = dataclasses.replace(config.sound_retrieval, split=split, seed=seed)
        reports["sound"] = stage(
            sound_retrieval, settings, name="sound/evaluate", model=model, data=data, sound=spectra
        )
    if "robustness" in config.protocols:
        settings = dataclasses.replace(config.robustness, split=split, seed=seed)
        reports["robustness"] = stage(robustness, settings, name="robustness/evaluate", model=model, data=data)
    if "finetune" in config.protocols:
        reports |= _finetunings(config, model, data)
    if "detect" in config.protocols:
        require(read_info(Path(config.model)).detector is not None, "protocols", f"{config.model} is no detector")
        settings = dataclasses.replace(config.detect, split=split, seed=seed)
        reports["detect"] = stage(
            detect, settings, name="detect/evaluate", resources=config.resources.extract, model=model, data=data
        )
    reports |= _transfers(config, model, data)
    return [
        stage(
            checkpoint_report,
            CheckpointReportConfig(labels=config.labels, seeds=config.seeds),
            name="report",
            **reports,
        )
    ]


def _transfers(config: Config, model: Stage, data: Stage) -> dict[str, Stage]:
    """Detection and segmentation above the checkpoint's backbone, and above a random one."""
    reports: dict[str, Stage] = {}
    if not {"detection", "segmentation", "patches"} & set(config.protocols):
        return reports
    info, own = read_info(Path(config.model)), config.resources
    for protocol, transfer in (("detection", config.detection), ("segmentation", config.segmentation)):
        if protocol not in config.protocols:
            continue
        for number in range(config.seed, config.seed + config.seeds):
            settings = transfer.training(info.model, info.image, number)
            for start, first in (("random", {}), ("checkpoint", {"init": model})):
                own_seed = f"_seed{number}" if config.seeds > 1 else ""
                name = f"{protocol}_{start}{own_seed}"
                inputs: dict[str, Any] = first
                network = training(settings, name=name, resources=own.train, data=data, **inputs)
                judged = dataclasses.replace(config.detect, split=config.split, seed=config.seed)
                reports[name] = stage(
                    detect,
                    judged,
                    name=f"{start}{own_seed}/{protocol}",
                    resources=own.extract,
                    model=network,
                    data=data,
                )
    if "patches" in config.protocols:
        settings = config.detection.training(info.model, info.image, config.seed)
        random = stage(initialize, settings, name="random", data=data)
        judged = dataclasses.replace(
            config.patches, split=config.split, seed=config.seed, size=config.patches.size or info.image.size
        )
        for start, network in (("random", random), ("checkpoint", model)):
            reports[f"patches_{start}"] = stage(
                patch_knn, judged, name=f"{start}/patches", resources=own.extract, model=network, data=data
            )
    return reports


def _finetunings(config: Config, model: Stage, data: Stage) -> dict[str, Stage]:
    """From the checkpoint and from scratch, on the same images, with the same budget."""
    info = read_info(Path(config.model))
    count = count_labeled(config.data.source)
    reports = {}
    for share in config.labels:
        for number in range(config.seed, config.seed + config.seeds):
            settings = config.finetune.training(info.model, info.image, share, count, number)
            for start, first in (("finetune", {"init": model}), ("scratch", {})):
                name = f"{start}_{100 * share:g}pct" + (f"_seed{number}" if config.seeds > 1 else "")
                inputs: dict[str, Any] = first
                tuned = training(settings, name=name, resources=config.resources.train, data=data, **inputs)
                judged = dataclasses.replace(config.evaluate, split=config.split)
                reports[name] = stage(evaluate, judged, name=f"{name}/evaluate", model=tuned, data=data)
    return reports
