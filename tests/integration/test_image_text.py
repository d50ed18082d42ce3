"""Captions, CLIP, zero-shot classification, ReCLIP and a student without labels, by the real command on real digits."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sslscale.data.index import read_index
from sslscale.data.joined import open_captioned
from sslscale.errors import DataError
from sslscale.graph.artifacts import Captions
from sslscale.graph.context import RunContext
from sslscale.graph.resources import Resources
from sslscale.nn.open_clip_towers import text_of
from sslscale.settings.data import PackConfig
from sslscale.settings.text import CaptionConfig
from sslscale.stages.captions import captions
from sslscale.stages.pack import content, has_test, is_labeled, pack
from tests import runs
from tests.benchmarks.captions import of_digits


def accuracies(out: str) -> dict[str, float]:
    return json.loads(out.splitlines()[-1])["metrics"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, float]]:
    """A root, its images and what CLIP measured there."""
    folder = tmp_path_factory.mktemp("captions")
    of_digits(folder / "images", wrong=0.4, turn=0.0, seed=0)
    words = [f"data.source={folder}/images/train.csv", f"data.test={folder}/images/test", "train.num_steps=200"]
    config = runs.ROOT / "configs/image_text/clip_digits.yaml"
    out, _ = runs.sslscale("run", config, *words, "--root", folder / "r", "--json")
    return folder / "r", folder / "images", accuracies(out)


def model_of(root: Path) -> Path:
    return next(root.glob("artifacts/train/*"))


def test_class_names_alone_classify_what_captions_described(trained: Any) -> None:
    root, _, found = trained
    assert found["zero_shot/test_accuracy"] > 0.5  # of 10 classes, from captions of which 40 % are wrong
    assert found["image_tower/linear_accuracy"] > found["random/linear_accuracy"] + 0.1
    assert 0.03 < found["retrieval/text_to_image_recall_at_1"] <= found["retrieval/text_to_image_recall_at_10"]
    info = json.loads((model_of(root) / "model.json").read_text())
    assert info["text"]["embed_dim"] == 64 and not info["head"]
    folder = next(root.glob("artifacts/caption_retrieval/*"))
    for name in ("captions.png", "similarities.png"):
        assert Image.open(folder / name).size[0] > 300
    (page,) = (root / "reports").glob("*.html")
    assert "Captions and the images nearest to them" in page.read_text()


@pytest.mark.slow
def test_eval_measures_a_checkpoint_with_a_text_tower(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, images, _ = trained
    runs.in_process(capsys, "data", "pack", images / "adapt", tmp_path / "packed", "--test", "0.5")
    words = ["--protocol", "zero_shot,knn", 'zero_shot.templates=["this is a {}"]']
    out, _ = runs.sslscale("eval", model_of(root), tmp_path / "packed", *words, "--root", tmp_path / "r", "--json")
    found = accuracies(out)
    assert found["zero_shot/test_accuracy"] > 0.4 and found["probe/knn_accuracy"] > 0.4
    (page,) = (tmp_path / "r").glob("artifacts/checkpoint_report/*/report.html")
    assert "By class names alone" in page.read_text()
    other = next(root.glob("artifacts/initialize/*"))  # untrained, with a text tower all the same
    assert json.loads((other / "model.json").read_text())["text"]
    supervised = next(root.glob("artifacts/zero_shot/*"))
    words = ["--protocol", "captions", "--root", tmp_path / "r"]
    _, problem = runs.sslscale("eval", supervised, tmp_path / "packed", *words, code=2)
    assert "has no text tower" in problem


def test_reclip_adapts_to_turned_digits_and_its_result_is_a_classifier(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _, _ = trained
    of_digits(tmp_path / "images", wrong=0.4, turn=25.0, seed=0)
    words = [f"data.source={tmp_path}/images/adapt", f"data.test={tmp_path}/images/test"]
    words += [f"clip.checkpoint={model_of(root)}", "without=[vision]", "reclip.epochs=1"]
    config = runs.ROOT / "configs/reclip/digits.yaml"
    out, _ = runs.sslscale("run", config, *words, "--root", tmp_path / "r", "--json")
    found = accuracies(out)
    assert found["reclip/test_accuracy"] > found["zero_shot/test_accuracy"] + 0.02
    both, alone = sorted(tmp_path.glob("r/artifacts/reclip/*"), key=lambda p: len(rows(p)[0]), reverse=True)
    assert [row["epoch"] for row in rows(both)] == [0, 1]
    assert rows(both)[0]["agreement"] == 1 and rows(both)[1]["agreement"] < 1  # both begin as the same network
    assert "vision_accuracy" not in rows(alone)[0]
    for folder, members in ((both, 2), (alone, 1)):
        info = json.loads((folder / "model.json").read_text())
        assert info["members"] == members and info["cosine_dim"] == 64
        out, _ = runs.in_process(capsys, "predict", folder, tmp_path / "images/test/two", "--json")
        assert len(out.splitlines()) == len(list((tmp_path / "images/test/two").iterdir()))
    _, problem = runs.in_process(capsys, "export", both, tmp_path / "out.safetensors", code=2)
    assert "is 2 networks together: export it as one graph" in problem


def rows(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "epochs.json").read_text())


@pytest.mark.slow
def test_a_student_learns_without_any_label(trained: Any, tmp_path: Path) -> None:
    root, images, found = trained
    words = [f"data.source={images}/adapt", f"data.test={images}/test", f"clip.checkpoint={model_of(root)}"]
    words += ["student.num_steps=120", "rounds=[{}]"]
    config = runs.ROOT / "configs/noisy_student/clip_digits.yaml"
    out, _ = runs.sslscale("run", config, *words, "--root", tmp_path / "r", "--json")
    measured = accuracies(out)
    assert measured["teacher/test_accuracy"] == pytest.approx(found["zero_shot/test_accuracy"])
    assert measured["student_1/test_accuracy"] > 0.5
    assert not list(tmp_path.glob("r/artifacts/pack/*/labeled"))


IMAGES = 10


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A flat folder of images: one without a caption, one empty, one not UTF-8, one long, six good."""
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    captions: list[bytes | None] = [None, b" \n", b"\xff\xfe\x00", b"a very long text with far more words than fit"]
    captions += [f"image {name}".encode() for name in "abcdef"]
    for number, caption in enumerate(captions):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(images / f"{number}.png")
        if caption is not None:
            (images / f"{number}.txt").write_bytes(caption)
    return tmp_path


def context(folder: Path, name: str) -> RunContext:
    (folder / name).mkdir()
    return RunContext(path=folder / name, root=folder, name=name, resources=Resources())


def read(folder: Path, source: PackConfig, **settings: Any) -> Captions:
    data = pack(context(folder, "data"), source)
    return captions(context(folder, "captions"), CaptionConfig(context=8, **settings), data=data)


def test_unusable_captions_are_counted_and_skipped(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = read(folder, PackConfig(source=f"{folder}/images", captions="txt"), on_unusable="skip")
    assert dict(found.accounting) == {"missing": 1, "empty": 1, "not_utf8": 1, "cut": 1, "used": 6}
    assert sum(found.accounting.values()) == IMAGES and found.metrics == {"captions": 7, "skipped": 3}
    assert "of 10 captions 1 cut, 1 empty, 1 missing, 1 not utf8" in caplog.text
    samples = open_captioned(folder / "data", found.dir, ("unlabeled",))
    texts = {samples.key(n): text_of(samples.field("text", np.array([n]))[0].tolist()) for n in range(len(samples))}
    assert texts == {"3": "a very long text with far", **{str(n): f"image {chr(93 + n)}" for n in range(4, 10)}}
    assert samples.field("text", np.arange(7)).shape == (7, 8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"of 10 captions in KEY.txt, 1 missing \(such as unlabeled-000000.tar: 0\); 1 empty .*; 1 not utf8"),
        ({"on_unusable": "skip", "on_long": "error"}, r"1 too long \(such as unlabeled-000000.tar: 3\): mend them, or"),
        ({"on_unusable": "skip", "member": "json:text"}, "no image has a caption in KEY.json, field text"),
    ],
)
def test_captions_that_are_errors_are_one_line(folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read(folder, PackConfig(source=f"{folder}/images", captions="txt"), **settings)
    assert "\n" not in str(error.value)


def test_captions_come_from_json_of_shards_that_others_wrote(folder: Path) -> None:
    with tarfile.open(folder / "pairs-0.tar", "w") as tar:
        for number, image in enumerate(sorted((folder / "images").glob("*.png"))):
            fields = {"meta": {"text": f"image {number}"}} if number else {"meta": {}}
            for name, data in ((f"{number}.png", image.read_bytes()), (f"{number}.json", json.dumps(fields).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    source = PackConfig(source=f"webdataset:{folder}/pairs-0.tar", label="none")
    found = read(folder, source, member="json:meta.text", on_unusable="skip")
    assert dict(found.accounting) == {"missing": 1, "used": 9}


def test_captions_are_part_of_the_datas_identity(folder: Path) -> None:
    source = PackConfig(source=f"{folder}/images", captions="txt")
    before = content(source, None), content(dataclasses.replace(source, captions=None), None)
    (folder / "images/4.txt").write_text("another text")
    after = content(source, None), content(dataclasses.replace(source, captions=None), None)
    assert before[0] != after[0] and before[1] == after[1]


def test_a_column_of_a_csv_is_packed_as_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(folder / "list.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "words"])
        table.writerows([[f"images/{n}.png", "" if n == 0 else f"one, two {n}"] for n in range(10)])
    runs.in_process(capsys, "data", "pack", folder / "list.csv", folder / "packed", "--captions", "words")
    with tarfile.open(folder / "packed/unlabeled/unlabeled-000000.tar") as tar:
        texts = {m.name: tar.extractfile(m).read().decode() for m in tar if m.name.endswith(".txt")}  # type: ignore
    assert len(texts) == 9 and texts["images/3.txt"] == "one, two 3"
    for source, name, message in (
        (folder / "list.csv", "text", "has no column 'text'"),
        (folder / "images", "words", "captions beside the images of a folder are txt files, not 'words'"),
    ):
        _, problem = runs.in_process(capsys, "data", "pack", source, folder / "p", "--captions", name, code=3)
        assert message in problem


def test_hidden_labels_leave_classes_and_a_test_split(tmp_path: Path) -> None:
    of_digits(tmp_path, wrong=0.0, turn=0.0, seed=0)
    source = PackConfig(source=f"{tmp_path}/adapt", test=f"{tmp_path}/test", labels_per_class=0)
    data = pack(context(tmp_path, "data"), source)
    assert not is_labeled(source) and has_test(source)
    assert set(data.num_samples) == {"unlabeled", "test"} and len(data.classes) == 10
    assert (read_index(data.split("unlabeled")).labels == -1).all()
