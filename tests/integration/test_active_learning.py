"""Active learning on digits: suggestions, answers as a set that refers to the same shards, and the experiment."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sslscale.data.answers import add_answers, read_answers, relabel
from sslscale.data.index import read_index
from sslscale.data.samples import open_images, open_samples
from sslscale.data.sources import HIDDEN
from sslscale.errors import DataError
from sslscale.graph.context import RunContext
from sslscale.graph.resources import Resources
from sslscale.settings.data import PackConfig
from sslscale.stages.pack import pack
from tests import runs


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    (folder / "data").mkdir()
    context = RunContext(path=folder / "data", root=folder, name="data", resources=Resources())
    source = PackConfig(source="digits", labels_per_class=2, test=0.25, keep_hidden_labels=True, shard_size=300)
    pack(context, source)
    return folder / "data"


def pixels(samples: Any, number: int) -> bytes:
    shard, row = (int(x[0]) for x in samples.places(np.array([number])))
    return bytes(samples.shards[shard].encoded(row))


def test_answers_move_images_between_the_splits_without_a_copy(shards: Path, tmp_path: Path) -> None:
    first = open_images(shards, ("unlabeled",))
    truth = np.load(shards / "unlabeled" / HIDDEN, allow_pickle=False)
    images = {first.key(n): (pixels(first, n), int(truth[n])) for n in range(len(first))}
    asked = [5, 400, 401, 1000]
    answers = {first.key(n): read_index(shards / "labeled").classes[truth[n]] for n in asked}
    indexes = add_answers(shards, tmp_path / "once", answers)
    assert {name: index.num_samples for name, index in indexes.items()} == {
        "labeled": 24,
        "unlabeled": len(first) - 4,
        "test": read_index(shards / "test").num_samples,
    }
    assert not list(tmp_path.rglob("*.tar"))
    left = np.load(tmp_path / "once/unlabeled" / HIDDEN, allow_pickle=False)
    again = relabel(tmp_path / "once", tmp_path / "twice", {0: int(left[0]), 700: int(left[700])}, first.index.classes)
    assert again["labeled"].num_samples == 26
    labeled, rest = open_samples(tmp_path / "twice/labeled"), open_images(tmp_path / "twice", ("unlabeled",))
    keys = [labeled.key(n) for n in range(26)]
    assert len(set(keys)) == 26 and set(answers) <= set(keys) and len(rest) == len(first) - 6
    for number, key in enumerate(keys):
        if key in images:
            assert (pixels(labeled, number), int(labeled.labels[number])) == images[key]
    hidden = np.load(tmp_path / "twice/unlabeled" / HIDDEN, allow_pickle=False)
    for number in range(0, len(rest), 97):
        assert (pixels(rest, number), int(hidden[number])) == images[rest.key(number)]
    assert not {rest.key(n) for n in range(len(rest))} & set(keys)


def test_wrong_answers_are_named(shards: Path, tmp_path: Path) -> None:
    key = open_images(shards, ("unlabeled",)).key(3)
    for text, message in (
        ("key;label\na;1\n", "has no columns `key` and `label`"),
        (f"key,label\n{key},1\n{key},2\n", f"csv:3: the key '{key}' has two labels"),
    ):
        (tmp_path / "answers.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            read_answers(tmp_path / "answers.csv")
    (tmp_path / "answers.csv").write_text(f"key,label,guess\n{key},,3\nother,,\n")
    assert read_answers(tmp_path / "answers.csv") == {}
    with pytest.raises(DataError, match=r"1 of 2 keys are no unlabelled image .*: 'nowhere'"):
        add_answers(shards, tmp_path / "out", {key: "1", "nowhere": "2"})
    with pytest.raises(DataError, match="'cat' is none of the classes"):
        add_answers(shards, tmp_path / "out", {key: "cat"})
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_person_labels_what_is_suggested_and_the_training_goes_on(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "r"
    config = runs.ROOT / "configs/supervised/digits.yaml"
    words = ["train.num_steps=20", "train.batch_size=20", "--root", root]
    runs.sslscale("run", config, f"data={{source: {shards}}}", *words)
    listed = tmp_path / "list.csv"
    runs.sslscale("suggest", "latest", shards, "--number", "30", "--by", "badge", "--out", listed, "--root", root)
    with open(listed, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["key"] for row in rows}) == 30 and all(row["guess"] and not row["label"] for row in rows)
    assert "data:image/jpeg" in listed.with_suffix(".html").read_text("utf-8")
    unlabeled = open_images(shards, ("unlabeled",))
    truth = np.load(shards / "unlabeled" / HIDDEN, allow_pickle=False)
    known = {unlabeled.key(n): unlabeled.index.classes[truth[n]] for n in range(len(unlabeled))}
    with open(listed, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "label"])
        writer.writerows((row["key"], known[row["key"]] if n < 25 else "") for n, row in enumerate(rows))
    out, _ = runs.in_process(capsys, "data", "label", shards, listed, tmp_path / "more")
    assert "25 new labels" in out and read_index(tmp_path / "more/labeled").num_samples == 45
    _, err = runs.in_process(capsys, "data", "label", shards, listed, tmp_path / "more", code=2)
    assert "is there already" in err
    found = runs.result(runs.sslscale("run", config, f"data={{source: {tmp_path}/more}}", *words, "--json")[0])
    assert runs.stages(found)["train"]["state"] == "ran"
    backbone = tmp_path / "r/artifacts/train"
    assert len(list(backbone.iterdir())) == 2


@pytest.mark.slow
def test_the_experiment_compares_strategies_on_the_same_seeds(tmp_path: Path) -> None:
    config = runs.ROOT / "configs/active_learning/digits.yaml"
    train = "{method: {name: supervised, label_smoothing: 0.0}, model: {name: wrn_10_0.5}, image: {size: 8}, "
    train += "batch_size: 20, num_steps: 4}"
    words = [f"starts={{plain: {{train: {train}}}}}", "strategies=[random, margin, typiclust]", "rounds=2", "seeds=2"]
    out, _ = runs.sslscale("run", config, *words, "--root", tmp_path / "r", "--json")
    assert {stage["state"] for stage in json.loads(out.splitlines()[-1])["stages"]} == {"ran"}
    (report,) = tmp_path.glob("r/artifacts/active_curves/*")
    found = json.loads((report / "summary.json").read_text())
    assert found["labels"] == [20, 40, 60] and set(found["plain"]) == {"random", "margin", "typiclust"}
    for curves in found["plain"].values():
        assert [len(curve) for curve in curves] == [3, 3]
        assert [curve[0] for curve in curves] == [curve[0] for curve in found["plain"]["random"]]
    page = (report / "report.html").read_text("utf-8")
    assert "area above random" in page and (report / "plain.png").exists()
    labeled = [read_index(folder / "labeled").num_samples for folder in tmp_path.glob("r/artifacts/answer/*")]
    assert sorted(labeled) == [40] * 6 + [60] * 6
