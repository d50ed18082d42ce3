"""Every configuration that is shipped plans, and every family of networks in one takes two steps."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from sslscale import experiment
from sslscale.graph import dag
from sslscale.graph.artifacts import Dataset
from sslscale.graph.context import RunContext
from sslscale.nn.classifier import build_backbone
from sslscale.nn.towers import build_towers
from sslscale.settings.method import Pretext, SelfSupervised, SemiSupervised, find, method_names
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.train import TrainConfig
from sslscale.stages.train import train
from sslscale.train import checkpoint
from tests.configurations import TEXT

EVERY = (experiment.share() / "configs").rglob("*.yaml")
CONFIGS = sorted(str(p.relative_to(experiment.share())) for p in EVERY if p.parent.name != "tune")


@pytest.mark.parametrize("config", CONFIGS)
def test_every_config_plans_and_opens_with_its_command(config: str, digits: Path, tmp_path: Path) -> None:
    text = (experiment.share() / config).read_text()
    assert text.startswith(f"# sslscale run {config}")
    words = [] if "source: digits" in text else [f"data.source={digits}"]
    if re.search(r'test: (data|"(webdataset|torchvision):)', text):
        words += ["data.test=null"]
    if "pipeline: detection" in text:
        words = [f"data.source={digits}", "data.test=null", "data.unlabeled=null"]
        words += ["classified=null"] if "\nclassified:" in text else []
        words += ["pretrain_data=null"] if "\npretrain_data:" in text else []
    if "labels_per_class" in text and "source: digits" not in text:
        words += ["data.labels_per_class=null"]
    if "\n  init: {checkpoint" in text:
        save_file(dict(build_backbone(ModelConfig(name="wrn_10_1"))[0].state_dict()), tmp_path / "w.safetensors")
        words += [f"pretrain.init.checkpoint={tmp_path / 'w.safetensors'}"]
    if "\nclip: {checkpoint" in text:
        towers = build_towers(ModelConfig(name="wrn_10_0.5"), TEXT)
        info = checkpoint.describe_model(towers, ModelConfig(name="wrn_10_0.5"), ImageConfig(size=8), ())
        (tmp_path / "clip").mkdir()
        checkpoint.save_model(tmp_path / "clip", towers, info)
        words += [f"clip.checkpoint={tmp_path / 'clip'}"]
    loaded = experiment.load(config, words)
    planned = dag.plan(loaded.targets, tmp_path)
    assert not (tmp_path / "artifacts").exists()
    names = {p.stage.name for p in planned}
    if loaded.pipeline == "pretrain":
        assert {"random/probe", "pretrain/probe"} <= names
        return
    if loaded.pipeline == "image_text":
        assert {"zero_shot/evaluate", "random/probe", "image_tower/probe"} <= names
        return
    if loaded.pipeline in ("image_sound", "text_lines"):  # planned without a test split
        assert {"data", "train"} <= names and names & {"spectrograms", "transcripts"}
        return
    if loaded.pipeline == "active_learning":
        config_of: Any = loaded.config
        last = f"round_{config_of.rounds}/evaluate"
        wanted = {f"seed_0/{start}/{by}/{last}" for start in config_of.starts for by in config_of.strategies}
        assert wanted | {"report"} <= names
        return
    if loaded.pipeline == "reclip":
        assert {"zero_shot/evaluate", "reclip/evaluate"} <= names
        return
    if loaded.pipeline == "detection":
        found = {p.stage.name for p in planned if p.stage.fn.__name__ == "train"} - {"pretrain"}
        assert found and ({f"{name}/detect" for name in found} <= names) == ("report" in names)
        return
    if loaded.pipeline == "pretrain_vs_selftrain":
        kinds = {name.partition("_")[2] for name in names if name.startswith("S1_100pct") and "/" not in name}
        assert kinds == {f"100pct_{kind}" for kind in ("random", "pretrained", "self_trained", "joint")}
        return
    if loaded.pipeline == "distill":
        teacher = "large" if loaded.config.teacher is None else "teacher"
        assert {f"{teacher}/evaluate", "small/evaluate", "student/evaluate", "report"} <= names
        return
    if loaded.pipeline == "semi_supervised":
        assert {f"{loaded.config.train.method.name}/evaluate", "report"} <= names
        return
    if loaded.pipeline == "simclr_clusterfit":
        judged = {f"{name}/probe" for name in ("random", "pretrain", "clusterfit", "pretrain_2x", "distill")}
        assert judged | {"clusters", "finetune/evaluate", "report"} <= names
        return
    if loaded.pipeline == "knowledge_transfer":
        students = {f"student_{k}" for k in loaded.config.k}
        judged = {f"{name}/probe" for name in ("random", "teacher", "pretext", "distill", *students)}
        assert judged | students | {f"clusters_{k}" for k in loaded.config.k} <= names
        assert planned[-1].stage.name == "report"
        return
    if loaded.pipeline in ("supervised", "cluster"):
        assert {"data", "train/evaluate"} <= names or {"features", "clusters", "list"} <= names
        return
    students = [p for p in planned if p.stage.name.startswith("student_") and p.stage.fn.__name__ == "train"]
    assert len([p for p in students if "/" not in p.stage.name]) == len(loaded.config.rounds) >= 2
    assert planned[-1].stage.name == "report"


SEMI_SUPERVISED = [name for name in method_names() if issubclass(find(name), SemiSupervised)]
SELF_SUPERVISED = ["supcon", *(name for name in method_names() if issubclass(find(name), SelfSupervised))]
PRETEXT = [name for name in method_names() if issubclass(find(name), Pretext)]
SEVERAL = "{name: multi_pretext, tasks: [{method: {name: rotation}}, {method: {name: jigsaw}}]}"
NEEDS_PATCHES = [
    name
    for name in method_names()
    if name not in PRETEXT and find(name)().unsupported_model(ModelConfig(name="resnet_18"), 24) is not None
]


@pytest.mark.parametrize("method", SEMI_SUPERVISED)
def test_every_semi_supervised_method_has_its_configurations(method: str) -> None:
    for data, labels in (("cifar10_cpu", 400), ("cifar10", 400)):
        assert f"configs/semi_supervised/{method}_{data}.yaml" in CONFIGS
        loaded = experiment.load(f"configs/semi_supervised/{method}_{data}.yaml").config
        assert loaded.train.method.name == method and loaded.data.labels_per_class == labels
    assert loaded.train.num_steps == 2**20 and loaded.train.model.name == "wrn_28_2"


@pytest.mark.parametrize("method", SELF_SUPERVISED)
def test_every_method_is_a_first_stage_of_either_graph(method: str, digits: Path, tmp_path: Path) -> None:
    model = "{name: vit_64x4_4, grid: 6}" if method in NEEDS_PATCHES else "{name: wrn_10_1}"
    named = SEVERAL if method == "multi_pretext" else f"{{name: {method}}}"
    words = [f"pretrain.method={named}", f"pretrain.model={model}", "pretrain.image={size: 24}"]
    same = [f"{part}.model={model}" for part in ("clusterfit", "finetune")]
    loaded = experiment.load("configs/simclr_clusterfit/digits.yaml", [*words, *same])
    planned = {p.stage.name: p.stage for p in dag.plan(loaded.targets, tmp_path)}
    assert planned["pretrain"].config.method.name == method and planned["clusters"]
    more = ["pretrain.num_steps=5", f"teacher.model={model}", "rounds=[{}]"]
    loaded = experiment.load("configs/noisy_student/digits.yaml", [*words, *more, f"student.model={model}"])
    planned = {p.stage.name: p.stage for p in dag.plan(loaded.targets, tmp_path)}
    assert planned["teacher"].inputs["init"] is planned["pretrain"]
    assert planned["pretrain"].config.method.name == method


@pytest.mark.parametrize("method", SELF_SUPERVISED)
def test_every_method_has_its_configurations(method: str) -> None:
    if method in PRETEXT:
        assert f"configs/pretrain/{method}_imagenet.yaml" in CONFIGS
        assert any(f"configs/pretrain/{method}_{data}_cpu.yaml" in CONFIGS for data in ("cifar10", "photographs"))
        return
    for data in ("cifar10_cpu", "cifar10", "imagenet"):
        assert f"configs/pretrain/{method}_{data}.yaml" in CONFIGS
    config = experiment.load(f"configs/pretrain/{method}_cifar10.yaml", ["data.source=digits", "data.test=0.2"]).config
    assert config.pretrain.model.name == ("vit_tiny_4" if method in NEEDS_PATCHES else "resnet_18")


def test_the_imagenet_config_says_what_the_paper_says() -> None:
    config = experiment.load("configs/noisy_student/imagenet.yaml").config
    assert config.select.per_class == 130_000 and config.select.threshold == 0.3
    assert config.student.method.unlabeled_ratio == 14 and config.rounds[-1].unlabeled_ratio == 28
    noise = config.student.augment.randaugment
    assert (noise.num_ops, noise.magnitude) == (2, 27)
    assert [(r.model.dropout, r.model.survival) for r in config.rounds] == [(0.5, 0.8)] * 3
    assert [r.high_resolution.size for r in config.rounds if r.high_resolution] == [800, 800]
    assert config.teacher.augment.randaugment is None and not config.warm_start


def tiny(config: TrainConfig, model: str, **changes: object) -> TrainConfig:
    own = ModelConfig(name=model, dropout=config.model.dropout, survival=config.model.survival)
    image = dataclasses.replace(config.image, size=32)
    return dataclasses.replace(
        config, model=own, image=image, batch_size=4, num_steps=2, epochs=None, log_every=1, precision="fp32", **changes
    )


@pytest.mark.parametrize(
    ("config", "model"),
    [
        ("cifar10", "wrn_28_2"),
        ("imagenet", "timm:tf_efficientnet_b0"),
        ("imagenet", "timm:resnet18"),
        ("imagenet", "timm:vit_tiny_patch16_224"),
    ],
)
def test_two_steps_of_each_family(config: str, model: str, digits: Path, context: Callable[..., RunContext]) -> None:
    from pipelines.noisy_student import HighResolution, high_resolution_config

    loaded = experiment.load(f"configs/noisy_student/{config}.yaml", ["resources.train.num_workers=1"]).config
    data = Dataset(path=str(digits), num_samples={}, classes=tuple("0123456789"))
    size: dict[str, object] = {}
    if "vit" in model:
        loaded = dataclasses.replace(
            loaded,
            student=dataclasses.replace(loaded.student, image=dataclasses.replace(loaded.student.image, size=224)),
        )
        own = ModelConfig(name=model, dropout=0.5, survival=0.8)
        settings = dataclasses.replace(
            loaded.student, model=own, batch_size=2, num_steps=2, epochs=None, log_every=1, precision="fp32", **size
        )
    else:
        settings = tiny(loaded.student, model)
    method = dataclasses.replace(settings.method, unlabeled_ratio=1)  # type: ignore[type-var]
    settings = dataclasses.replace(settings, method=method)
    selection = pseudo_labels(digits, context)
    student = train(context("student"), settings, data=data, pseudo=selection)
    assert student.step == 2
    assert student.metrics["loss"] < 50
    if "vit" in model:  # its resolution is part of its weights
        return
    high = high_resolution_config(settings, HighResolution(size=48, epochs=0.08, batch_size=4))
    finished = train(context("high"), high, data=data, init=student)
    assert finished.num_parameters == student.num_parameters


def pseudo_labels(digits: Path, context: Callable[..., RunContext]):
    """Shards of the labelled images with soft labels, as a student reads them."""
    import numpy as np

    from sslscale.data.samples import open_samples
    from sslscale.data.write import write_shards
    from sslscale.graph.artifacts import ShardSet

    samples = open_samples(digits / "labeled")
    soft = np.full((len(samples), 10), 0.02, np.float32)
    soft[np.arange(len(samples)), samples.labels] = 0.82
    ctx = context("pseudo")
    found = (
        samples.shards[0].sample(i)._replace(label=int(samples.labels[i]), soft=soft[i]) for i in range(len(samples))
    )
    write_shards(ctx.path, "pseudo", found, samples.index.classes, 50)
    return ShardSet(path=str(ctx.path), num_samples=len(samples))


@pytest.mark.parametrize("name", ["simclr_imagenet", "simclr_imagenet_2x", "simclr_cifar10", "simclr_imagenet_4x"])
def test_two_steps_of_pre_training_by_the_published_settings(
    name: str, digits: Path, context: Callable[..., RunContext]
) -> None:
    """The file's own method, augmentation, optimiser and kind of network, the network and its images made small."""
    loaded = experiment.load(f"configs/pretrain/{name}.yaml", ["resources.train.num_workers=1"]).config
    width = loaded.pretrain.model.name.removeprefix("resnet_50").removeprefix("resnet_18") or "_1"
    assert width in ("_1", "_2", "_4")
    own = ModelConfig(name=f"resnet_18_{int(width[1:]) / 8}", small_images=True)
    image = dataclasses.replace(loaded.pretrain.image, size=16, short_side=None)
    settings = dataclasses.replace(
        loaded.pretrain, model=own, image=image, batch_size=8, num_steps=2, epochs=None, log_every=1, precision="fp32"
    )
    data = Dataset(path=str(digits), num_samples={}, classes=tuple("0123456789"))
    found = train(context("pretrain"), dataclasses.replace(settings, monitor_every=1, monitor_images=50), data=data)
    assert found.step == 2 and 0 < found.metrics["loss"] < 20 and 0 <= found.metrics["knn_accuracy"] <= 1
