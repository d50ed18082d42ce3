"""What a new user meets first: init, doctor, the lists, the schema, and names instead of paths."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from PIL import Image

import sslscale
from sslscale import experiment
from sslscale.cli import advice, catalog, compare
from sslscale.cli.advice import Facts
from sslscale.cli.doctor import BAD, NOTE, OK, _disk, _ports, _torch
from sslscale.cli.main import main
from sslscale.errors import ConfigError
from sslscale.graph import dag, execution, lookup
from sslscale.graph.execution import Inline
from sslscale.report.results import Measure, Spread, spread_difference
from sslscale.settings.method import method_names
from tests import runs


def photos(folder: Path, classes: dict[str, int], *, flat: bool = False, size: int = 40, mode: str = "RGB") -> Path:
    """Noise of a colour of its own for each class."""
    rng = np.random.default_rng(0)
    for number, (name, count) in enumerate(classes.items()):
        place = folder if flat else folder / name
        place.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 60, (size, size + 8, 3), np.uint8) + np.uint8(60 * number)
            Image.fromarray(pixels).convert(mode).save(place / f"{name}{i}.png")
    return folder


def written(file: Path) -> tuple[str, Any]:
    text = file.read_text("utf-8")
    return text, experiment.load(str(file))


def test_init_of_class_folders_is_a_plan_that_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = photos(tmp_path / "photos", {"a": 12, "b": 10}), tmp_path / "run.yaml"
    assert main(["init", str(source), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "22 images (22 .png)" in said and "short side 40 to 40" in said and "'b' has the fewest: 10" in said
    text, loaded = written(out)
    assert text.startswith(f"# sslscale run {out}\n") and loaded.pipeline == "supervised"
    image = loaded.config.train.image
    pixels = (
        np.concatenate([np.asarray(Image.open(f), float).reshape(-1, 3) for f in sorted(source.rglob("*.png"))]) / 255
    )
    np.testing.assert_allclose(image.mean, pixels.mean(0), atol=0.02)
    assert image.size == 32 and loaded.config.data.test == 0.2
    assert loaded.config.train.batch_size <= 18 and loaded.config.train.num_steps >= 200
    assert main(["plan", str(out), "--root", str(tmp_path / "runs")]) == 0
    assert main(["init", str(source), "--out", str(out)]) == 2 and "is there already" in capsys.readouterr().err


def test_init_with_few_labels_is_noisy_student_and_without_any_pre_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = photos(tmp_path / "photos", {"a": 20, "b": 20}, flat=True, mode="L")
    (source / "broken.jpg").write_bytes(b"no image")
    (source / "x.heic").write_bytes(b"")
    rows = [[f"{name}{i}.png", name] for name in "ab" for i in range(6)]
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], *rows])
    words = ["init", str(source), "--labels", str(tmp_path / "labels.csv"), "--out", str(tmp_path / "few.yaml")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "gray" in said and "unreadable: " in said and ".heic images" in said and "12 used + 0 not found" in said
    text, loaded = written(tmp_path / "few.yaml")
    assert loaded.pipeline == "noisy_student" and "on_bad_sample: skip" in text
    assert main(["init", str(source), "--out", str(tmp_path / "all.yaml")]) == 0
    text, loaded = written(tmp_path / "all.yaml")
    assert loaded.pipeline == "pretrain" and "jitter" not in text  # gray images have no hue
    assert main(["init", str(source), "--goal", "cluster", "--out", str(tmp_path / "c.yaml")]) == 0
    assert written(tmp_path / "c.yaml")[1].pipeline == "cluster"
    capsys.readouterr()
    assert main(["init", str(source), "--goal", "classify", "--out", str(tmp_path / "no.yaml")]) == 2
    assert "no image has a label" in capsys.readouterr().err and not (tmp_path / "no.yaml").exists()


def test_the_lists_know_everything_that_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    rows = catalog.methods()
    assert [row["name"] for row in rows] == method_names()
    assert all(row["idea"] and row["use it when"] for row in rows) and {row["kind"] for row in rows} == set(
        catalog.KINDS
    )
    for words in (["methods"], ["methods", "--kind", "supervised", "--json"], ["models"], ["models", "resnet50d"]):
        assert main(words) == 0, words
    assert "self-supervised" in capsys.readouterr().out
    assert main(["models", "wrn_16_2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["features"] == 128
    assert main(["models", "wrn_15_2"]) == 2 and main(["models", "nosuchnetwork"]) == 2
    capsys.readouterr()
    assert main(["configs", "fixmatch", "--json"]) == 0
    named = [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()]
    assert "configs/semi_supervised/fixmatch_digits.yaml" in named and all(experiment.find(n).is_file() for n in named)
    assert main(["configs", "nothing of the kind"]) == 2


def test_advice_follows_from_images_labels_network_and_machine(capsys: pytest.CaptureFixture[str]) -> None:
    def names(*words: str) -> list[str]:
        assert main(["methods", "--for", *words, "--json"]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert all(row["reason"] and re.search(r"\d", row["figure"]) for row in rows)
        return [row["method"] for row in rows]

    assert names("configs/noisy_student/digits.yaml")[0] == "remixmatch"  # 10 labels a class
    assert names("configs/supervised/digits.yaml")[0] == "supervised"
    assert names("configs/pretrain/simclr_digits.yaml")[-1] == "supervised"
    base = Facts(
        labeled=0, unlabeled=10**6, classes=0, size=224, patches=False, gpus=0, method="simclr", pretrains=True
    )
    first = lambda **more: advice.advise(dataclasses.replace(base, **more))[0].method  # noqa: E731
    assert first() == "emp_ssl" and first(gpus=1) == "lejepa" and first(gpus=8) == "simclr"
    assert first(patches=True) == "dinov2" and first(patches=True, unlabeled=500) == "mae"
    assert first(labeled=4000, classes=10, pretrains=False) == "noisy_student"
    assert {one.method for one in advice.advise(base)} <= set(method_names())
    assert main(["methods", "--for", "configs/detection/scenes.yaml"]) == 2
    assert "at most one class each" in capsys.readouterr().err
    assert main(["methods", "--for", "configs/noisy_student/digits.yaml"]) == 0
    assert "1,347 images, 100 labelled of 10 classes" in capsys.readouterr().out


def test_the_schema_takes_every_configuration_and_no_misspelt_key() -> None:
    schema = catalog.configuration_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    files = sorted((experiment.share() / "configs").glob("[!t]*/*.yaml"))
    assert len(files) > 60
    for file in files:
        values = json.loads(json.dumps(experiment.yaml_document.read(file).data))
        assert not list(check.iter_errors(values)), file
    values = yaml.safe_load((experiment.share() / "configs/semi_supervised/fixmatch_digits.yaml").read_text())
    for place, wrong in (("train", "num_step"), ("data", "sauce")):
        bad = {**values, place: {**values[place], wrong: 3}}
        assert list(check.iter_errors(bad)), wrong
    assert list(check.iter_errors({**values, "rounds": []}))  # of another pipeline
    bad = {**values, "train": {**values["train"], "method": {"name": "fixmatch", "ema": "much"}}}
    assert list(check.iter_errors(bad))
    note = schema["$defs"]["TrainConfig"]["properties"]["accumulate"]
    assert note["default"] == 1 and "parts of a batch" in note["description"]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_a_script_of_the_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "compare" in script and "--labels-per-class" in script
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=script, text=True).returncode == 0


def test_the_doctor_tells_disk_port_and_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [f.state for f in _torch() if f.name == "torch"] == [OK]
    assert {f.name for f in _disk(tmp_path / "not" / "there")} == {"root", "scratch"}
    monkeypatch.setattr("shutil.disk_usage", lambda where: shutil._ntuple_diskusage(10, 9, 1))  # pyright: ignore[reportAttributeAccessIssue]
    assert {f.state for f in _disk(tmp_path)} == {BAD}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert [f.state for f in _ports(port)] == [NOTE]
    assert [f.state for f in _ports(port)] == [OK]


@pytest.mark.slow
def test_the_doctor_looks_at_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--root", str(tmp_path), "--json"]) == 0
    found = {json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()}
    assert {"Python", "torch", "CUDA", "Ray", "DeepSpeed", "MLflow", "root", "scratch", "port"} <= found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A root with the same small training at two lengths, three seeds each."""
    folder = tmp_path_factory.mktemp("two")
    text = """
pipeline: supervised
data: {source: digits, labels_per_class: 5, test: 0.25}
train:
  method: {name: supervised}
  model: {name: wrn_10_0.5}
  image: {size: 8}
  batch_size: 50
  num_steps: 2
"""
    files = [runs.write(folder, text, "a.yaml"), runs.write(folder, text.replace("steps: 2", "steps: 40"), "b.yaml")]
    for file in files:
        graph = experiment.over_seeds(str(file), [], (0, 1, 2))
        execution.run(dag.plan(graph.targets, folder / "runs"), folder / "runs", Inline())
    return folder / "runs", files[0], files[1]


def test_seeds_are_one_graph_of_the_stages_of_each(two: tuple[Path, Path, Path]) -> None:
    root, file, _ = two
    graph = experiment.over_seeds(str(file), [], (0, 1, 2))
    planned = {entry.stage.name: entry for entry in dag.plan(graph.targets, root)}
    assert set(planned) == {f"seed_{n}/{name}" for n in range(3) for name in ("data", "train", "train/evaluate")}
    alone = dag.plan(experiment.load(str(file), ["seed=1"]).targets, root)
    assert {entry.key for entry in alone} < {entry.key for entry in planned.values()}
    assert all(entry.state == "cached" for entry in alone)


def test_compare_shows_settings_and_results_over_seeds(
    two: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root, a, b = two
    words = ["compare", str(a), str(b), "--root", str(root)]
    assert main([*words, "--seeds", "0,1,2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"] == {"train.num_steps": [2, 40]}
    first, second = found["results"]
    assert "(3 seeds)" in first["accuracy"] and first["difference"] == "" and " points" in second["difference"]
    assert main(words) == 0 and "nothing was measured" not in capsys.readouterr().out
    keys = [entry.key for f in (a, b) for entry in dag.plan(experiment.load(str(f)).targets, root)[-1:]]
    assert main(["compare", *keys, "--root", str(root)]) == 0
    assert main(["compare", str(a), "--root", str(root)]) == 2 and main([*words, "--seeds", "1,1"]) == 2
    assert main(["ls", "--root", str(root), "--sort", "test_accuracy", "--json"]) == 0
    values = [
        json.loads(line)["metrics"]["test_accuracy"] for line in capsys.readouterr().out.splitlines() if line[0] == "{"
    ]
    assert values == sorted(values, reverse=True) and len(values) == 6
    assert main(["ls", "--root", str(root), "--sort", "nothing"]) == 2


def test_differences_over_seeds_are_students_t() -> None:
    from scipy import stats

    def spread(values: list[float]) -> Spread:
        return Spread(tuple(Measure("s", "p", v, v, v, 10, Path()) for v in values))

    a, b = [0.70, 0.74, 0.71], [0.61, 0.66, 0.64]
    found = spread_difference(spread(a), spread(b))
    expected = stats.ttest_rel(a, b).confidence_interval()
    assert found.value - found.half == pytest.approx(expected.low) and found.value + found.half == pytest.approx(
        expected.high
    )
    welch = spread_difference(spread(a), spread([*b, 0.6]))
    expected = stats.ttest_ind(a, [*b, 0.6], equal_var=False).confidence_interval()
    assert welch.value - welch.half == pytest.approx(expected.low, rel=1e-6) and not welch.paired
    assert not spread_difference(spread([0.9]), spread([0.1])).clear  # one seed says nothing of the spread


def test_a_seed_that_lacks_a_network_mixes_it_with_no_other() -> None:
    def found(*names: str) -> list[Measure]:
        return [Measure(f"{name}/evaluate", "evaluate", len(name) / 10, 0, 1, 9, Path()) for name in names]

    side = compare.Side("a.yaml", {}, [found("t", "s_1", "long_name"), found("t", "long_name")])
    spreads = compare._spreads(side)
    assert {key[0]: own.values for key, own in spreads.items()} == {
        "t/evaluate": (0.1, 0.1),
        "long_name/evaluate": (0.9, 0.9),
    }


def test_a_checkpoint_is_found_by_key_stage_or_latest(
    two: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _, _ = two
    folder = lookup.find_checkpoint(root, "latest")
    assert lookup.find_checkpoint(root, folder.name) == lookup.find_checkpoint(root, folder.name[:6]) == folder
    assert lookup.find_checkpoint(root, "seed_1/train").parent == folder.parent
    with pytest.raises(ConfigError, match="whose result the next run changes: give its key"):
        lookup.find_checkpoint(root, "seed_1/train", by_key=True)
    assert lookup.find_checkpoint(root, folder.name[:6], by_key=True) == folder
    with pytest.raises(ConfigError, match="it has seed_2/train"):
        lookup.find_checkpoint(root, "seed_2/trian")
    images = photos(tmp_path / "photos", {"a": 3}, flat=True)
    (images / "bad.png").write_bytes(b"x")
    words = ["--root", str(root)]
    assert main(["predict", "latest", str(images), "--out", str(tmp_path / "p.csv"), "--top", "2", *words]) == 3
    rows = list(csv.reader((tmp_path / "p.csv").read_text().splitlines()))
    assert rows[0] == ["path", "class_1", "probability_1", "class_2", "probability_2"] and len(rows) == 4
    assert "bad.png" in capsys.readouterr().err
    (images / "bad.png").unlink()
    for name in ("e.npy", "e.parquet"):
        assert main(["embed", "latest", str(images), "--out", str(tmp_path / name), *words]) == 0
    model = sslscale.load("latest", root=root)
    features = model.features(images)
    np.testing.assert_allclose(np.load(tmp_path / "e.npy"), features, rtol=1e-5)
    import pyarrow.parquet as parquet

    table = parquet.read_table(tmp_path / "e.parquet")
    np.testing.assert_allclose(np.array(table["features"].to_pylist()), features, rtol=1e-5)
    assert [Path(p).name for p in table["path"].to_pylist()] == ["a0.png", "a1.png", "a2.png"]
    predicted = model.predict(str(images / "a0.png"), top=2)[0]
    assert predicted[0][0] == rows[1][1] and predicted[0][1] == pytest.approx(float(rows[1][2]), abs=1e-5)
    assert main(["embed", "latest", str(images), "--out", str(tmp_path / "e.txt"), *words]) == 2


def test_show_draws_views_of_the_users_images_and_the_page_of_a_result(
    two: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, file, _ = two
    monkeypatch.chdir(tmp_path)
    source = photos(tmp_path / "photos", {"a": 6, "b": 6})
    assert main(["show", "configs/semi_supervised/fixmatch_digits.yaml", "--views", f"data={{source: {source}}}"]) == 0
    assert "labeled: 1 views; unlabeled: 2 views" in capsys.readouterr().out
    for name in ("fixmatch", "supervised"):
        with Image.open(tmp_path / "fixmatch_digits-views" / f"{name}.png") as picture:
            pixels = np.asarray(picture)
        assert pixels.shape[0] == 76 * (12 if name == "fixmatch" else 6) and pixels.shape[2] == 3
        assert 3 < pixels[:70, :70].std() < 100  # the images, not a blank
    assert main(["show", "seed_1/train", "--root", str(root), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "seed_1/train" in page and "seed_1/data" in page and "seed_0/train" not in page
    assert main(["show", str(file)]) == 2 and "add --views" in capsys.readouterr().err
    assert main(["show", "nothing", "--root", str(root)]) == 2
