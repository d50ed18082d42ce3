"""What is looked at beside the loss: a collapse, the mean over patches, where a ViT looks; and trainings that go on."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch

from sslscale import experiment
from sslscale.data.batch import Batch
from sslscale.errors import ConfigError, DataError
from sslscale.evaluate.patches import PatchMean
from sslscale.graph import dag
from sslscale.graph.artifacts import Dataset
from sslscale.graph.context import RunContext
from sslscale.graph.stage_warnings import Warnings, collect_warnings
from sslscale.methods.dinov2 import DINOv2
from sslscale.methods.simclr import SimCLR
from sslscale.methods.simsiam import SimSiam
from sslscale.methods.supcon import SupCon
from sslscale.methods.supervised import Supervised
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.features import AttentionConfig, ExtractConfig
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.train import OptimConfig, TrainConfig
from sslscale.stages.attention import attention
from sslscale.stages.extract import extract
from sslscale.stages.train import train
from sslscale.storage.jsonio import read_json

VIEW = AugmentConfig(crop="resized", scale=(0.4, 1.0))
BASE = TrainConfig(
    method=SimCLR(),
    model=ModelConfig(name="wrn_10_0.5"),
    image=ImageConfig(size=8),
    augment=VIEW,
    batch_size=64,
    num_steps=6,
    log_every=2,
)
VIT = dataclasses.replace(
    BASE,
    method=DINOv2(prototypes=32, hidden=32, bottleneck=8),
    model=ModelConfig(name="vit_32x2_2", grid=4),
    views={"local": AugmentConfig(crop="resized", scale=(0.1, 0.4), size=4, count=2)},
    optim=OptimConfig(name="adamw", lr=1e-3),
    keep_method=True,
)
Context = Callable[..., RunContext]


@pytest.fixture
def data(digits: Path) -> Dataset:
    counts = {
        split: read_json(digits / split / "index.json")["num_samples"] for split in ("labeled", "unlabeled", "test")
    }
    return Dataset(path=str(digits), num_samples=counts, classes=tuple("0123456789"))


@pytest.mark.slow
def test_a_collapse_is_reported_by_step_500(
    context: Context, data: Dataset, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "sslscale")
    config = dataclasses.replace(BASE, method=SimSiam(projection=32, hidden=16), num_steps=220, log_every=20)
    train(context("healthy"), config, data=data)
    assert not [r for r in caplog.records if "collapses" in r.getMessage()]
    rows = (context("healthy").path / "metrics.jsonl").read_text().splitlines()
    assert "embedding_std" in rows[-1] and "effective_rank" in rows[-1]

    def without_stop_gradient(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return -torch.nn.functional.cosine_similarity(predicted, target).mean()

    # figure 2 of the paper
    monkeypatch.setattr("sslscale.methods.simsiam.method.negative_cosine", without_stop_gradient)
    train(context("collapsing"), config, data=data)
    (told,) = [r.getMessage() for r in caplog.records if "collapses" in r.getMessage()]
    assert told.startswith(("step 200", "step 220"))


@pytest.mark.parametrize(
    ("capability", "precision", "told"), [("AVX2", "bf16", 1), ("AVX2", "fp32", 0), ("AVX512", "bf16", 0)]
)
def test_emulated_precisions_are_reported(
    context: Context,
    data: Dataset,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    capability: str,
    precision: Literal["fp32", "bf16"],
    told: int,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    caplog.set_level(logging.WARNING, "sslscale")
    train(context(precision), dataclasses.replace(BASE, precision=precision, num_steps=1), data=data)
    assert len([r for r in caplog.records if "set precision: fp32" in r.getMessage()]) == told


def test_warnings_are_shown_once_and_from_now_on(tmp_path: Path) -> None:
    log = logging.getLogger("sslscale.train.fit")
    with collect_warnings(tmp_path):
        log.warning("of an attempt before")
    shown = Warnings(tmp_path)
    with collect_warnings(tmp_path), collect_warnings(tmp_path):  # as by two workers
        log.warning("step %d", 200)
        log.info("no warning")
    with open(tmp_path / "warnings.log", "a") as file:
        file.write("half a li")
    assert shown.new() == ["step 200"]
    with open(tmp_path / "warnings.log", "a") as file:
        file.write("ne\nstep 200\n")
    assert shown.new() == ["half a line"] and shown.new() == []
    log.warning("to nobody")
    assert "nobody" not in (tmp_path / "warnings.log").read_text()
    assert Warnings(tmp_path / "not there").new() == []


def test_a_warning_that_cannot_be_written_is_not_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "warnings.log").symlink_to("/dev/full")
    for folder in (tmp_path, tmp_path / "gone"):
        with collect_warnings(folder):
            logging.getLogger("sslscale.data.images").warning("the cache cannot be written")
    assert capfd.readouterr().err.count("the cache cannot be written\n") >= 2


def test_patch_features_are_the_mean_over_crops() -> None:
    x = torch.randn(3, 3, 8, 8)
    found = PatchMean(torch.nn.Flatten(), 4, 0.25, 4)(x)
    corners = [x[:, :, a : a + 4, b : b + 4].flatten(1) for a in (0, 4) for b in (0, 4)]
    torch.testing.assert_close(found, torch.stack(corners).mean(0))
    whole = PatchMean(torch.nn.Flatten(), 1, 1.0, 8)(x)
    torch.testing.assert_close(whole, x.flatten(1))
    with pytest.raises(ValueError, match="patches: must be a square"):
        ExtractConfig(patches=3)


def test_features_of_patches_differ_from_those_of_the_image(context: Context, data: Dataset) -> None:
    model = train(context("model"), BASE, data=data)
    import numpy as np

    rows = []
    for name, config in (
        ("whole", ExtractConfig(splits=("test",))),
        ("patches", ExtractConfig(splits=("test",), patches=4)),
    ):
        ctx = context(name)
        extract(ctx, config, model=model, data=data)
        rows.append(np.load(ctx.path / "test" / "features-000000.npy"))
    assert rows[0].shape == rows[1].shape and not np.allclose(rows[0], rows[1], atol=1e-2)


def test_a_vits_attention_is_drawn_and_others_have_none(context: Context, data: Dataset) -> None:
    model = train(context("vit"), VIT, data=data)
    ctx = context("attention")
    report = attention(ctx, AttentionConfig(images=3), model=model, data=data)
    assert (ctx.path / "attention.png").stat().st_size > 5000 and 0 < report.metrics["attention_entropy"] <= 1
    with pytest.raises(DataError, match="has no attention to draw"):
        attention(context("no"), AttentionConfig(), model=train(context("wrn"), BASE, data=data), data=data)


def test_high_resolution_training_continues_with_the_whole_method(context: Context, data: Dataset) -> None:
    from safetensors.torch import load_file

    first = train(context("first"), VIT, data=data)
    config = experiment.load("configs/pretrain/dinov2_imagenet.yaml", [f"data.source={data.path}"])
    planned = {p.stage.name: p.stage for p in dag.plan(config.targets, Path(data.path))}
    high = planned["pretrain/high_resolution"].config
    assert (high.method.warmup_epochs, high.method.freeze_last) == (0, 0)  # the first training has had them
    assert planned["pretrain"].config.method.warmup_epochs == 30
    assert high.image.size == 448 and high.views["local"].size == 192 and not high.keep_method
    assert (
        planned["pretrain"].config.keep_method and planned["pretrain/high_resolution"].inputs["init"].name == "pretrain"
    )
    larger = dataclasses.replace(
        VIT, image=ImageConfig(size=12), num_steps=1, keep_method=False, optim=OptimConfig(lr=1e-9)
    )
    second = train(context("second"), larger, data=data, init=first)
    before, after = (load_file(c.dir / "model.safetensors") for c in (first, second))
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-5)
    assert (first.dir / "method.safetensors").exists() and not (second.dir / "method.safetensors").exists()
    bare = train(context("bare"), dataclasses.replace(VIT, keep_method=False), data=data)  # a network without its heads
    third = train(context("third"), larger, data=data, init=bare)
    given, found = (load_file(c.dir / "model.safetensors") for c in (bare, third))
    for name, value in given.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)


def test_supcon_learns_from_labels_where_they_are_known(context: Context, data: Dataset) -> None:
    seen: list[Batch] = []
    from sslscale.methods.supcon import method as supcon

    original = supcon.SupConMethod.forward

    def spy(self: supcon.SupConMethod, batch: dict[str, Batch]) -> object:
        seen.extend(batch.values())
        return original(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supcon.SupConMethod, "forward", spy)
        train(context("mixed"), dataclasses.replace(BASE, method=SupCon(stream="mixed"), num_steps=21), data=data)
    labels = torch.cat([b.label for b in seen if b.label is not None])
    # one pass over 100 labelled and the unlabelled images
    assert int((labels >= 0).sum()) == pytest.approx(100, abs=2) and int((labels < 0).sum()) > 1200


def test_a_noisy_student_can_begin_with_what_was_learned_without_labels(context: Context, data: Dataset) -> None:
    from safetensors.torch import load_file

    words = [f"data.source={data.path}", "data.test=null", "data.labels_per_class=null"]
    more = [
        "pretrain.method.name=byol",
        "pretrain.model.name=wrn_10_0.5",
        "pretrain.image.size=16",
        "pretrain.num_steps=5",
    ]
    loaded = experiment.load("configs/noisy_student/digits.yaml", [*words, *more])
    planned = {p.stage.name: p.stage for p in dag.plan(loaded.targets, Path(data.path))}
    assert planned["teacher"].inputs["init"].name == "pretrain" and planned["pretrain"].config.method.name == "byol"
    with pytest.raises(ConfigError, match=r"pretrain: its model must be the teacher's"):
        experiment.load("configs/noisy_student/digits.yaml", [*words, *more, "pretrain.model.name=wrn_16_1"])
    first = train(context("ssl"), BASE, data=data)
    config = dataclasses.replace(BASE, method=Supervised(), optim=OptimConfig(lr=1e-9), num_steps=1)
    teacher = train(context("teacher"), config, data=data, init=first)
    weights = load_file(teacher.dir / "model.safetensors")
    for name, value in load_file(first.dir / "model.safetensors").items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(weights[f"backbone.{name}"], value, rtol=0, atol=1e-5)
