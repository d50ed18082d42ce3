"""Weights that others published: their features are ours, in every network of a method; what does not fit is said."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file

from sslscale import experiment
from sslscale.errors import ConfigError, DataError
from sslscale.graph.artifacts import Checkpoint, Dataset
from sslscale.graph.context import RunContext
from sslscale.graph.dag import stage
from sslscale.graph.resources import Resources
from sslscale.methods.byol import BYOL
from sslscale.methods.dino import DINO
from sslscale.methods.method import build_method
from sslscale.methods.simclr import SimCLR
from sslscale.nn import names
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.data import PackConfig
from sslscale.settings.first_weights import InitConfig
from sslscale.settings.method import MethodSettings
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.train import OptimConfig, TrainConfig
from sslscale.stages import training
from sslscale.stages.open_weights import WeightsConfig, content, open_weights
from sslscale.stages.pack import pack
from sslscale.stages.train import train
from sslscale.storage.jsonio import read_json
from sslscale.train import checkpoint, first_weights
from sslscale.train.public_weights import read_backbone

VIT = ModelConfig(name="vit_32x2_2", grid=4)
WRN = ModelConfig(name="wrn_10_0.5")


def theirs_and_ours(theirs: torch.nn.Module, file: Path, model: ModelConfig, size: int) -> None:
    """The features of their network, by their code, and of the file of its weights, by ours."""
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(read_backbone(file, model)(images), theirs.eval()(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "model", "size"),
    [
        ("vit_tiny_patch16_224", ModelConfig(name="vit_tiny_16"), 224),
        (
            "vit_small_patch14_reg4_dinov2",
            ModelConfig(name="vit_small_14", grid=37, registers=4, layer_scale=1e-5),
            518,
        ),
        ("resnet18", ModelConfig(name="resnet_18"), 64),
    ],
)
def test_timms_weights_give_timms_features(name: str, model: ModelConfig, size: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs: Any = timm.create_model(name, num_classes=7)
    for weight in theirs.parameters():  # also those that begin at 0
        torch.nn.init.normal_(weight, std=0.05)
    save_file({n: w.contiguous() for n, w in theirs.state_dict().items()}, tmp_path / "w.safetensors")
    theirs.reset_classifier(0)
    theirs_and_ours(theirs, tmp_path / "w.safetensors", model, size)


def test_torchvisions_weights_in_a_training_scripts_wrappers_are_found(tmp_path: Path) -> None:
    theirs = torchvision.models.resnet34(num_classes=3)
    wrapped = {f"module.backbone.{n}": w for n, w in theirs.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": {**wrapped, "module.head.weight": torch.zeros(2)}}, tmp_path / "w.pth")
    theirs.fc = torch.nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    theirs_and_ours(theirs, tmp_path / "w.pth", ModelConfig(name="resnet_34"), 64)


def test_timms_names_and_back_are_the_same() -> None:
    network = checkpoint.build_backbone(dataclasses.replace(VIT, layer_scale=0.1))[0]
    weights = network.state_dict()
    there = names.to_timm(weights)
    assert not there.keys() & {"positions", "blocks.0.scale1"} and names.from_timm(there) == weights


def test_positions_are_resized_to_the_grid(tmp_path: Path) -> None:
    network = checkpoint.build_backbone(VIT)[0]
    save_file(names.to_timm(network.state_dict()), tmp_path / "w.safetensors")
    larger = read_backbone(tmp_path / "w.safetensors", dataclasses.replace(VIT, grid=6))
    assert larger.get_parameter("positions").shape == (1, 37, 32)


def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    save_file({"fc.weight": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match=r"holds no weights of wrn_10_0\.5: of .* are missing .* the file has fc"):
        read_backbone(tmp_path / "w.safetensors", WRN)

    class Evil:
        def __reduce__(self) -> tuple:
            return (Path(tmp_path / "run").touch, ())

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"state_dict": Evil()}))
    with pytest.raises(DataError, match="is no file of tensors alone"):
        read_backbone(tmp_path / "evil.pth", WRN)
    assert not (tmp_path / "run").exists()
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-3])
    with pytest.raises(DataError, match="cannot be read as weights"):
        read_backbone(tmp_path / "cut.safetensors", WRN)


@pytest.mark.parametrize(
    ("settings", "count"), [(BYOL(), 2), (DINO(prototypes=16, hidden=16, bottleneck=8), 2), (SimCLR(), 1)]
)
def test_a_methods_backbones_all_begin_with_the_weights(settings: MethodSettings, count: int, tmp_path: Path) -> None:
    torch.manual_seed(1)
    given = checkpoint.build_backbone(WRN)[0]
    info = checkpoint.describe_model(given, WRN, ImageConfig(size=8), ())
    checkpoint.save_model(tmp_path, given, info)
    method = build_method(settings, WRN, 10)
    heads = {n: w.clone() for n, w in method.state_dict().items()}
    first_weights.initialize_method(method, tmp_path, ())
    parts = first_weights.backbones(method)
    assert len(parts) == count
    for part in parts:
        for name, value in part.state_dict().items():
            assert torch.equal(value, given.state_dict()[name]), name
    changed = [n for n, w in method.state_dict().items() if not torch.equal(w, heads[n])]
    assert 0 < len(changed) < len(heads)  # heads are new


@pytest.fixture
def data(digits: Path) -> Dataset:
    counts = {s: read_json(digits / s / "index.json")["num_samples"] for s in ("labeled", "unlabeled", "test")}
    return Dataset(path=str(digits), num_samples=counts, classes=tuple(map(str, range(10))))


CONFIG = TrainConfig(
    method=BYOL(),
    model=WRN,
    image=ImageConfig(size=8),
    augment=AugmentConfig(crop="resized", scale=(0.4, 1.0)),
    batch_size=64,
    num_steps=6,
    log_every=2,
    optim=OptimConfig(lr=0.1),
)


def test_the_backbone_waits_for_its_heads(context: Callable[..., RunContext], data: Dataset) -> None:
    first = train(context("first"), CONFIG, data=data)
    frozen = dataclasses.replace(CONFIG, freeze_backbone_steps=6, seed=1)
    weights = [
        load_file(c.dir / "model.safetensors") for c in (first, train(context("a"), frozen, data=data, init=first))
    ]
    learned = {n for n, v in weights[0].items() if v.is_floating_point() and "running" not in n}
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in learned)
    partly = dataclasses.replace(frozen, freeze_backbone_steps=5)
    moved = load_file(train(context("b"), partly, data=data, init=first).dir / "model.safetensors")
    assert not any(torch.equal(weights[0][name], moved[name]) for name in learned if weights[0][name].ndim > 1)


def test_a_training_that_names_weights_reads_them_as_a_stage(
    context: Callable[..., RunContext], data: Dataset, tmp_path: Path
) -> None:
    trained = train(context("first"), CONFIG, data=data)
    source = InitConfig(checkpoint=str(trained.dir))
    config = dataclasses.replace(CONFIG, init=source)
    images = stage(pack, PackConfig(source=data.path), name="data")
    declared = training(config, name="next", resources=Resources(), data=images)
    assert declared.inputs["init"].name == "next/init"
    weights = WeightsConfig(source=source, model=WRN, image=ImageConfig(size=8))
    opened = open_weights(context("opened"), weights)
    assert isinstance(opened, Checkpoint) and opened.num_parameters == trained.num_parameters
    same = WeightsConfig(source=InitConfig(checkpoint=trained.path + "/"), model=WRN, image=ImageConfig(size=8))
    assert content(weights, tmp_path) == content(same, tmp_path)
    other = dataclasses.replace(weights, model=ModelConfig(name="wrn_16_1"))
    with pytest.raises(ConfigError, match="the model of this training must be one too"):
        content(other, tmp_path)
    with pytest.raises(DataError, match="there is no such file of weights"):
        content(dataclasses.replace(weights, source=InitConfig(timm="resnet18", weights="no.pth")), tmp_path)
    before = training(CONFIG, name="before", resources=Resources(), data=images)
    with pytest.raises(ConfigError, match="its first weights are those of before"):
        training(config, name="last", resources=Resources(), data=images, init=before)


def test_pretraining_probes_the_weights_that_it_began_with(digits: Path, tmp_path: Path) -> None:
    network = checkpoint.build_backbone(ModelConfig(name="wrn_10_1"))[0]
    save_file(dict(network.state_dict()), tmp_path / "w.safetensors")
    overrides = [f"pretrain.init={{checkpoint: {tmp_path / 'w.safetensors'}}}", f"data={{source: {digits}}}"]
    loaded = experiment.load("configs/pretrain/simclr_digits.yaml", overrides)
    assert {"pretrain/init/probe", "pretrain/probe", "random/probe"} <= {stage.name for stage in loaded.targets}


def test_losing_what_the_weights_know_is_said(
    context: Callable[..., RunContext], data: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    good = dataclasses.replace(CONFIG, method=SimCLR(temperature=0.5), num_steps=60, optim=OptimConfig(lr=0.05))
    first = train(context("first"), good, data=data)
    wild = dataclasses.replace(
        CONFIG,
        init=InitConfig(checkpoint=first.path),
        optim=OptimConfig(lr=50.0),
        monitor_every=2,
        monitor_images=100,
    )
    ctx = context("wild")
    train(ctx, wild, data=data, init=first)
    rows = [json.loads(line) for line in (ctx.path / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["step"] == 0 and rows[0]["knn_accuracy"] > rows[-1]["knn_accuracy"] + 0.02
    assert "is below that of the weights it began with" in caplog.text
