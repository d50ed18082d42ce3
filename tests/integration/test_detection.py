"""Detection on scenes that are composed here: packed, trained, found, measured, taught, shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from sslscale.data.joined import open_scenes
from sslscale.data.pack import pack
from sslscale.nn.classifier import build_backbone
from sslscale.nn.detector import build_detector
from sslscale.settings.data import PackConfig
from sslscale.settings.detection import DetectorConfig
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.train import checkpoint
from tests import runs
from tests.benchmarks.scenes import write, write_digits

ROWS = ("random", "self_trained", "classified")
TINY = ["method.detector.width=32", "method.detector.name=fcos", "image.size=64", "num_steps=3", "batch_size=4"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes")
    found = load_digits()
    data = found.images, found.target  # pyright: ignore[reportAttributeAccessIssue]
    rng = np.random.default_rng(0)
    for name, count in (("train", 24), ("unlabeled", 10), ("test", 10)):
        write(out, name, count, rng, data, 64)
    write_digits(out / "digits", *(x[:200] for x in data))
    return out


def words(scenes: Path, root: Path, *more: str) -> list[str]:
    sources = [
        f"data.source=coco:{scenes}/train.json:{scenes}/train",
        f"data.test=coco:{scenes}/test.json:{scenes}/test",
        f"data.unlabeled={scenes}/unlabeled",
        f"pretrain_data.source={scenes}/digits",
    ]
    return ["run", str(runs.ROOT / "configs/detection/scenes.yaml"), *sources, "--root", str(root), "--json", *more]


def test_the_graph_teaches_and_compares(scenes: Path, tmp_path: Path) -> None:
    tiny = [f"{name}.{word}" for name in ("detector", "student", "classified") for word in TINY]
    tiny += ["pretrain=null", "find.threshold=0.05", "data.shard_size=10"]
    command = words(scenes, tmp_path, *tiny)
    out, err = runs.sslscale(*command)
    assert "24 images (0 without objects)" in out + err
    (grid,) = tmp_path.glob("artifacts/grid/*/summary.json")
    networks = json.loads(grid.read_text())["networks"]
    assert set(networks) == {f"all_20pct_{row}" for row in ROWS}
    for result in networks.values():
        assert (
            0 <= result["ap"] <= 1 and result["images"] == 10 and set(result["boxes"]["by_class"]) == set("0123456789")
        )
    for folder in tmp_path.glob("artifacts/detect/*"):
        assert (folder / "scenes.png").stat().st_size > 10_000 and (folder / "detections.json").exists()
    (data,) = (place.parent for place in tmp_path.glob("artifacts/pack/*/unlabeled"))
    teachers = sorted(tmp_path.glob("artifacts/find_objects/*"))
    assert len(teachers) == 1
    for folder in teachers:
        record = json.loads((folder / "record.json").read_text())
        found = open_scenes(data, ("unlabeled",), folder)
        shard, row = found.places()
        lines = [found.objects_of(int(s), int(r)) for s, r in zip(shard, row, strict=True)]
        assert record["fields"]["num_images"] == len(lines) == 10
        assert record["fields"]["accounting"]["objects"] == sum(len(objects.boxes) for objects in lines)
        assert all(objects.size == (64, 64) for objects in lines)
    (page,) = tmp_path.glob("reports/*.html")
    assert "what is there, and what was found" in page.read_text()
    out, _ = runs.sslscale(*command)  # nothing is missing
    assert {stage["state"] for stage in json.loads(out.splitlines()[-1])["stages"]} == {"cached"}


@pytest.mark.slow
def test_pixels_are_learned(scenes: Path, tmp_path: Path) -> None:
    """Of the scenes it trained on: whether the graph can learn at all."""
    own = [
        "pretrain=null",
        "pretrain_data=null",
        "student=null",
        "classified=null",
        "detector.method.detector={name: fcn, width: 64}",
        "label_fractions=[1.0]",
    ]
    own += ["detector.image.size=64", "detector.num_steps=300", "detector.batch_size=8", "detector.augment.crop=none"]
    own += [
        "detector.optim={name: adamw, lr: 0.005}",
        f"data.test=coco:{scenes}/train.json:{scenes}/train",
        "data.unlabeled=null",
    ]
    runs.sslscale(*words(scenes, tmp_path, *own))
    (report,) = tmp_path.glob("artifacts/detect/*/report.json")
    result = json.loads(report.read_text())
    assert result["pixel_accuracy"] > 0.9 and result["by_class"]["(none)"] > 0.9
    assert result["miou"] > 0.25 and result["miou_interval"][0] < result["miou"] < result["miou_interval"][1]


@pytest.mark.slow
def test_eval_judges_a_backbone_by_objects_and_a_detector_as_it_is(scenes: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    config = PackConfig(
        source=f"coco:{scenes}/train.json:{scenes}/train", test=f"coco:{scenes}/test.json:{scenes}/test"
    )
    pack(config, shards)
    backbone, detector = tmp_path / "backbone", tmp_path / "detector"
    model, image = ModelConfig(name="vit_32x1_8", grid=8), ImageConfig(size=64)
    classes = tuple("0123456789")
    torch.manual_seed(0)
    for folder, network in (
        (backbone, build_backbone(model)[0]),
        (detector, build_detector(DetectorConfig(name="linear"), model, 10)),
    ):
        folder.mkdir()
        checkpoint.save_model(folder, network, checkpoint.describe_model(network, model, image, classes))
    small = [f"{name}.{word}" for name in ("detection", "segmentation") for word in ("size=64", "num_steps=2")]
    small += ["detection.batch_size=4", "segmentation.batch_size=4", "detection.detector={name: fcos, width: 32}"]
    root = ["--root", str(tmp_path / "r"), "--json"]
    protocols = ["--protocol", "patches,segmentation,detection"]
    out, _ = runs.sslscale("eval", backbone, shards, *protocols, *small, *root)
    assert all(stage["state"] == "ran" for stage in runs.result(out)["stages"])
    (summary,) = tmp_path.glob("r/artifacts/checkpoint_report/*/summary.json")
    found = json.loads(summary.read_text())["protocols"]
    assert {f"{p}_{s}" for p in ("patches", "segmentation", "detection") for s in ("checkpoint", "random")} == set(
        found
    )
    assert found["patches_checkpoint"]["places"] == 24 * 64 and found["patches_checkpoint"]["grid"] == 8
    assert "miou" in found["segmentation_random"] and "boxes" in found["detection_checkpoint"]
    (page,) = tmp_path.glob("r/artifacts/checkpoint_report/*/report.html")
    assert "random backbone" in page.read_text()
    runs.sslscale("eval", detector, shards, "--protocol", "detect", *root)
    (report,) = [f for f in tmp_path.glob("r/artifacts/detect/*/report.json") if "miou" in f.read_text()][-1:]
    assert json.loads(report.read_text())["images"] == 10


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["detector.image.size=100"], "detectors take images of a multiple of 32 pixels"),
        (["student.model.name=resnet_34_0.25"], "its model must be resnet_18_0.25"),
        (["data.test=coco:gone.json:gone"], "gone: there is no such folder of images"),
        (["student.method={name: detection}"], "its method must be detection_self_training"),
        (["data.unlabeled=null"], "data.unlabeled: is missing: a folder of images for the student"),
    ],
)
def test_what_cannot_be_is_one_line(
    scenes: Path, tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = [f"{name}.{word}" for name in ("detector", "student") for word in TINY]
    tiny += ["pretrain=null", "pretrain_data=null", "classified=null", "detector.num_steps=1"]
    code = 3 if "gone" in message else 2  # what lies outside the configuration
    _, error = runs.in_process(capsys, *words(scenes, tmp_path, *tiny, *more), code=code)
    assert message in error and "Traceback" not in error
