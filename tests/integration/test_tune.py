"""Tuning: trials are runs, a search that was killed goes on, the best is a configuration whose stages are there."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sslscale.errors import ConfigError
from sslscale.tracking.search import open_parent
from sslscale.tracking.store import store
from sslscale.tracking.tracker import Tracker
from sslscale.tuning import read_space
from tests import runs

SPACE = """
metric: model/test_accuracy
samples: 3
search: random
concurrent: 1
set: {train.num_steps: 60}
space:
  train.optim.lr: {loguniform: [0.0001, 0.3]}
  train.batch_size: {choice: [20, 40]}
"""

POPULATION = """
metric: model/test_accuracy
samples: 4
search: random
concurrent: 1
population: {watch: model/train_accuracy, section: train, interval: 150}
set: {train.num_steps: 600}
space:
  train.optim.lr: {loguniform: [0.001, 0.3]}
"""


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on_and_its_best_is_a_run(tmp_path: Path) -> None:
    config = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml")
    space, root = tmp_path / "space.yaml", tmp_path / "root"
    space.write_text(SPACE)
    words = ("tune", config, "--space", space, "--root", root, "--json")

    def ended() -> list[Path]:
        return sorted((root / "artifacts" / "evaluate").glob("*/record.json"))

    runs.kill_when(runs.start(*words), lambda: len(ended()) == 1)
    (first,) = ended()
    written = first.stat().st_mtime_ns
    found = runs.result(runs.sslscale(*words)[0])
    assert [row["state"] for row in found["trials"]] == ["ended"] * 3
    assert len(ended()) == 3 and first.stat().st_mtime_ns == written  # the trial that had ended was not run again
    best = found["best"]
    assert best["value"] == max(row["value"] for row in found["trials"])
    assert {*best["values"]} == {"train.optim.lr", "train.batch_size"}
    folder = Path(found["config"]).parent
    with open(folder / "trials.csv", encoding="utf-8") as text:
        assert [float(row["model/test_accuracy"]) for row in csv.DictReader(text)] == [
            row["value"] for row in found["trials"]
        ]
    assert (folder / "parallel.png").stat().st_size > 5000
    assert "each line is a trial" in (folder / "report.html").read_text()

    # what was found is a configuration, and its stages are there; it lies elsewhere than the user's own pipeline
    (folder / "short.py").write_text(runs.SHORT)
    again = runs.stages(runs.result(runs.sslscale("run", found["config"], "--root", root, "--json")[0]))
    assert {name: stage["state"] for name, stage in again.items()} == {
        "data": "cached",
        "model": "cached",
        "model/evaluate": "cached",
        "model/weigh": "ran",
    }
    assert again["model/evaluate"]["metrics"]["test_accuracy"] == best["value"]

    client = MlflowClient(store(root))
    (own,) = [e for e in client.search_experiments() if e.name != "Default" and "short" in e.name]
    (parent,) = client.search_runs([own.experiment_id], "attributes.run_name LIKE 'tune%'")
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["model/test_accuracy"] == best["value"]
    below = client.search_runs([own.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert len([run for run in below if run.info.status == "FINISHED"]) == 3


def test_a_restarted_trial_continues_its_mlflow_run(tmp_path: Path) -> None:
    folder = tmp_path / "tune"
    folder.mkdir()
    parent = open_parent(tmp_path, folder, "short", "tune short")
    assert parent is not None
    for trial in ("one", "one", "other"):  # the first was killed when its run had ended
        tracker = Tracker(tmp_path, [], {"lr": 0.1}, "short", "short.yaml", (), part_of=(parent, trial))
        tracker.close("FINISHED")
        assert tracker.warnings == []
    client = MlflowClient(store(tmp_path))
    (own,) = [e for e in client.search_experiments() if e.name == "short"]
    below = client.search_runs([own.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert sorted((run.data.tags["trial"], run.info.status) for run in below) == [
        ("one", "FINISHED"),
        ("other", "FINISHED"),
    ]


@pytest.mark.slow
def test_hopeless_trials_are_stopped_early(tmp_path: Path) -> None:
    config = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml")
    space = tmp_path / "space.yaml"
    text = SPACE.replace("samples: 3", "samples: 6").replace("train.num_steps: 60", "train.num_steps: 600")
    early = "early_stop: {watch: model/train_accuracy, max_steps: 600, grace: 50, reduction: 2}\n"
    space.write_text(early + text.replace("[0.0001, 0.3]", "[0.000001, 0.3]"))
    words = ("tune", config, "--space", space, "--root", tmp_path / "root", "--json")
    found = runs.result(runs.sslscale(*words)[0])
    states = [row["state"] for row in found["trials"]]
    assert states.count("stopped early") >= 1 and states.count("ended") >= 1
    assert found["best"]["value"] > 0.7


@pytest.mark.slow
def test_population_based_training_exploits_the_best(tmp_path: Path) -> None:
    config = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml")
    space, root = tmp_path / "space.yaml", tmp_path / "root"
    space.write_text(POPULATION)
    found = runs.result(runs.sslscale("tune", config, "--space", space, "--root", root, "--json")[0])
    assert [row["state"] for row in found["trials"]] == ["ended"] * 4
    assert found["best"]["value"] > 0.7
    begun = [row["values"].get("train.continues") for row in found["trials"]]
    followed = [place for place in begun if place is not None]
    assert followed and all((root / place / "commit.json").exists() for place in followed)
    # the best is a configuration that says what it went on from; its stages are there
    folder = Path(found["config"]).parent
    (folder / "short.py").write_text(runs.SHORT)
    again = runs.stages(runs.result(runs.sslscale("run", found["config"], "--root", root, "--json")[0]))
    assert again["model"]["state"] == "cached"
    assert again["model/evaluate"]["metrics"]["test_accuracy"] == found["best"]["value"]
    # and made once more it is the same to the bit
    (record,) = (root / "artifacts/train").glob(f"{again['model']['key']}/record.json")
    weights = (record.parent / "model.safetensors").read_bytes()
    shutil.rmtree(record.parent)
    runs.sslscale("run", found["config"], "--root", root)
    assert (record.parent / "model.safetensors").read_bytes() == weights


@pytest.mark.slow
def test_killed_population_based_training_resumes(tmp_path: Path) -> None:
    config = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml")
    space, root = tmp_path / "space.yaml", tmp_path / "root"
    space.write_text(POPULATION)
    words = ("tune", config, "--space", space, "--root", root, "--json")

    def second() -> list[Path]:
        return [path for path in root.glob("tune/*/states/*@300")]

    runs.kill_when(runs.start(*words), lambda: len(second()) > 0, timeout_s=280)
    before = {path: path.stat().st_mtime_ns for path in root.glob("tune/*/states/*")}
    found = runs.result(runs.sslscale(*words)[0])
    assert [row["state"] for row in found["trials"]] == ["ended"] * 4
    assert found["best"]["value"] > 0.7
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    folder = Path(found["config"]).parent
    (folder / "short.py").write_text(runs.SHORT)
    again = runs.stages(runs.result(runs.sslscale("run", found["config"], "--root", root, "--json")[0]))
    assert again["model"]["state"] == "cached"
    assert again["model/evaluate"]["metrics"]["test_accuracy"] == found["best"]["value"]


def test_the_spaces_that_come_with_it_open_with_their_command_and_can_be_searched(tmp_path: Path) -> None:
    files = sorted((runs.ROOT / "configs" / "tune").glob("*.yaml"))
    assert files
    for file in files:
        words = file.read_text("utf-8").splitlines()[0].split()
        assert words[:3] == ["#", "sslscale", "tune"] and words[4:] == ["--space", str(file.relative_to(runs.ROOT))]
        search = read_space(str(file), str(runs.ROOT / words[3]), [], tmp_path, None)
        assert search.load({key: dimension.ends[0] for key, dimension in search.config.space.items()}).targets


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("train.optim.lr:", "train.optim.speed:"), "train.optim.speed"),
        (("[0.0001, 0.3]", "[-1, 0.3]"), "space.train.optim.lr.loguniform: must be positive"),
        (("[20, 40]", "[20, 0]"), "train.batch_size=0"),
        (("metric: model/", "metric: teacher/"), "no stage reports teacher/...; there are model"),
        (("search: random", "search: grid"), "'grid' is not one of 'optuna', 'random'"),
        (("search: random", "search: optuna\npopulation: {watch: a/b, section: train, interval: 9}"), "is random"),
        (("metric: model/test_accuracy", "metric: accuracy"), "metric: is GROUP/NAME"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    config = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml")
    space = tmp_path / "space.yaml"
    space.write_text(SPACE.replace(*change))
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        read_space(str(space), str(config), [], tmp_path / "root", None)
