"""The graphs in which networks teach networks, by the real command, in few steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from sslscale.errors import ConfigError, DataError
from sslscale.graph.artifacts import Dataset
from sslscale.graph.context import RunContext
from sslscale.settings.model import ImageConfig
from sslscale.settings.teacher import TimmConfig
from sslscale.stages import open_timm
from sslscale.train.checkpoint import load_model
from tests import runs

DIGITS = tuple("0123456789")


@pytest.mark.slow
def test_distillation_in_every_direction(tmp_path: Path) -> None:
    words = [f"{part}.num_steps=8" for part in ("large", "small", "distill")]
    words += ["large.model.name=wrn_10_0.5", "poor_share=0.3"]
    run = ("run", "configs/distill/digits.yaml", *words, "--root", tmp_path / "runs", "--json")
    found = runs.result(runs.sslscale(*run)[0])
    networks = {"large", "small", "student", "itself", "virtual", "reversed", "poor_teacher", "poor"}
    assert {f"{name}/test_accuracy" for name in networks} <= found["metrics"].keys()
    page = (runs.folder_of(tmp_path / "runs", found, "report") / "report.html").read_text()
    assert "poor_teacher" in page and "reversed" in page
    # offline: the teacher speaks once of each image, and is not loaded while the student learns
    found = runs.result(runs.sslscale(*run, "offline=true", "directions=[teacher]")[0])
    states = {name: s["state"] for name, s in runs.stages(found).items()}
    assert states["large"] == states["small"] == "cached" and states["student/logits"] == states["student"] == "ran"
    logits = np.load(next(runs.folder_of(tmp_path / "runs", found, "student/logits").glob("labeled/features-*.npy")))
    assert logits.shape[1] == 10


def timm_weights(file: Path, name: str, num_classes: int = 10) -> torch.nn.Module:
    """A model of timm with random weights, batch norms' statistics and biases included, and the file that it leaves."""
    torch.manual_seed(1)
    model = timm.create_model(name, num_classes=num_classes)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand_like(tensor) if tensor.ndim == 1 else 0)
    if file.suffix == ".safetensors":
        save_file(model.state_dict(), file)
    else:
        torch.save({"state_dict": model.state_dict(), "epoch": 3}, file)
    return model.eval()


def opened(ctx: RunContext, wanted: tuple[str, ...] = DIGITS, *, size: int = 32, **settings: str):
    config = TimmConfig(image=ImageConfig(size=size), **settings)
    open_timm.content(config, ctx.root)
    return open_timm.open_timm(ctx, config, data=Dataset(path="", num_samples={}, classes=wanted))


@pytest.mark.parametrize(
    ("name", "size", "suffix"),
    [
        ("test_resnet", 32, ".safetensors"),
        ("test_efficientnet.r160_in1k", 64, ".pth"),
        ("test_convnext", 64, ".safetensors"),
        ("test_vit", 160, ".pth"),
        ("mobilenetv3_small_050", 64, ".pth"),  # which has a layer between its features and its classifier
        ("ghostnet_050", 64, ".safetensors"),  # which takes no stochastic depth
    ],
)
def test_a_timm_model_says_the_same_as_a_checkpoint(
    name: str, size: int, suffix: str, tmp_path: Path, context: Callable[..., RunContext]
) -> None:
    """Of more classes than the data has, in an order of their own."""
    names = ["8", "x", "0", "2", "1", "y", "3", "9", "7", "4", "6", "5"]
    (tmp_path / "classes.txt").write_text("\n".join(names) + "\n")
    weights = tmp_path / f"weights{suffix}"
    theirs = timm_weights(weights, name, len(names))
    found = opened(context(), size=size, name=name, weights=str(weights), classes=str(tmp_path / "classes.txt"))
    ours, info = load_model(found.dir)
    assert info.classes == DIGITS and info.image.size == size
    images = torch.randn(3, 3, size, size)
    with torch.no_grad():
        expected = theirs(images)[:, [names.index(name) for name in DIGITS]]
        assert expected.std() > 0
        torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_imagenet_classes_need_no_file(tmp_path: Path, context: Callable[..., RunContext]) -> None:
    from timm.data.imagenet_info import ImageNetInfo

    known = ImageNetInfo("imagenet-1k").label_names()
    theirs = timm_weights(tmp_path / "w.safetensors", "test_resnet", 1000)
    classes = (known[20], known[3], known[999])
    found = opened(context(), classes, name="test_resnet", weights=str(tmp_path / "w.safetensors"))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(load_model(found.dir)[0](images), theirs(images)[:, [20, 3, 999]])


def test_errors_of_timm_models_are_one_line(tmp_path: Path, context: Callable[..., RunContext]) -> None:
    weights = tmp_path / "w.safetensors"
    timm_weights(weights, "test_resnet", 12)
    with pytest.raises(ConfigError, match="timm has no model 'test_resnt'; it has, among others, test_"):
        opened(context(), name="test_resnt", weights=str(weights))
    with pytest.raises(ConfigError, match=r"tells 12 classes apart, and 10 are named; .*teacher\.classes"):
        opened(context(), name="test_resnet", weights=str(weights))
    (tmp_path / "classes.txt").write_text("\n".join("0123456789ab"))
    with pytest.raises(ConfigError, match=r"does not know the data's class 'cat' \(1 so\)"):
        opened(context(), ("0", "cat"), name="test_resnet", weights=str(weights), classes=str(tmp_path / "classes.txt"))
    with pytest.raises(DataError, match="the weights do not fit timm's test_efficientnet"):
        opened(context(), name="test_efficientnet", weights=str(weights))
    with pytest.raises(DataError, match=r"none.pth: there is no such file, .* timm:test_resnet"):
        opened(context(), name="test_resnet", weights=str(tmp_path / "none.pth"))
    weights.write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"w.safetensors: cannot be read as weights of test_resnet"):
        opened(context(), name="test_resnet", weights=str(weights))
    timm_weights(weights, "deit_tiny_distilled_patch16_224")
    with pytest.raises(ConfigError, match="has no single linear classifier but"):
        opened(context(), size=224, name="deit_tiny_distilled_patch16_224", weights=str(weights))
    timm_weights(weights, "vit_tiny_patch16_224")
    with pytest.raises(ConfigError, match="vit_tiny_patch16_224 does not take images of 32 pixels"):
        opened(context(), name="vit_tiny_patch16_224", weights=str(weights))
    with pytest.raises(
        ConfigError, match=r"timm publishes no weights of test_resnet\.none, but of test_resnet\.r160_in1k: give"
    ):
        opened(context(), name="test_resnet.none")
    with pytest.raises(ConfigError, match=r"was trained with image\.mean"):
        opened(context(), name="test_resnet.r160_in1k")


@pytest.mark.slow
def test_a_timm_model_and_a_checkpoint_teach(tmp_path: Path) -> None:
    timm_weights(tmp_path / "w.pth", "test_resnet")
    words = ["small.num_steps=8", "distill.num_steps=8", "large=null", "directions=[teacher]"]
    run = ("run", "configs/distill/digits.yaml", *words, "--root", tmp_path / "runs", "--json")
    timm_teacher = f"teacher={{timm: test_resnet, weights: {tmp_path / 'w.pth'}}}"
    found = runs.result(runs.sslscale(*run, timm_teacher)[0])
    student = found["metrics"]["student/test_accuracy"]
    assert {"teacher/test_accuracy", "small/test_accuracy"} <= found["metrics"].keys()
    assert "large/test_accuracy" not in found["metrics"]
    # moved, the file is the same; what it became is a checkpoint like any other, and teaches the same offline
    (tmp_path / "w.pth").rename(tmp_path / "moved.pth")
    found = runs.result(runs.sslscale(*run, timm_teacher.replace("w.pth", "moved.pth"))[0])
    assert {s["state"] for s in runs.stages(found).values()} == {"cached"}
    folder = runs.folder_of(tmp_path / "runs", found, "teacher")
    found = runs.result(runs.sslscale(*run, f"teacher={{checkpoint: {folder}}}")[0])
    assert runs.stages(found)["student"]["state"] == "ran"
    assert found["metrics"]["student/test_accuracy"] == student
    found = runs.result(runs.sslscale(*run, f"teacher={{checkpoint: {folder}}}", "offline=true")[0])
    assert runs.stages(found)["teacher"]["state"] == "cached" and runs.stages(found)["student"]["state"] == "ran"


@pytest.mark.slow
def test_pre_training_and_self_training_side_by_side(tmp_path: Path) -> None:
    words = [f"{part}.num_steps=10" for part in ("pretrain", "supervised", "student")]
    words += ["label_fractions=[0.5]", "strengths=[{}]", "select.on_empty_class=warn"]
    words += [f"{part}.model.name=wrn_10_0.5" for part in ("pretrain", "supervised", "student")]
    run = ("run", "configs/pretrain_vs_selftrain/digits.yaml", *words, "--root", tmp_path / "runs", "--json")
    found = runs.result(runs.sslscale(*run)[0])
    for kind in ("random", "pretrained", "self_trained", "joint"):
        assert 0 <= found["metrics"][f"S1_50pct_{kind}/test_accuracy"] <= 1
    gain = found["metrics"]["S1_50pct_joint/test_accuracy"] - found["metrics"]["S1_50pct_random/test_accuracy"]
    assert found["metrics"]["report/S1_50pct_joint_gain"] == pytest.approx(gain)


def test_errors_of_a_teacher_are_reported_by_the_plan(tmp_path: Path) -> None:
    _, err = runs.sslscale(
        "run", "configs/distill/digits.yaml", "distill.method={name: supervised}", "--root", tmp_path, code=2
    )
    assert "supervised has no teacher" in err
    _, err = runs.sslscale(
        "run", "configs/distill/digits.yaml", "distill.method={name: deit}", "--root", tmp_path / "r", code=2
    )
    assert "distill.model: wrn_10_0.25 needs distillation_token: true for deit" in err and "Traceback" not in err
    for words, code, told in (
        ("large=null", 2, "large: is needed for poor and reversed"),
        ("teacher={timm: a, checkpoint: b}", 2, "teacher.checkpoint: give this or timm, and not both"),
        ("teacher={checkpoint: a, weights: b}", 2, "teacher.weights: is for timm alone"),
        (f"teacher={{checkpoint: {tmp_path}}}", 3, "no checkpoint there"),
    ):
        _, err = runs.sslscale("run", "configs/distill/digits.yaml", words, "--root", tmp_path / "r", code=code)
        assert told in err and "Traceback" not in err
