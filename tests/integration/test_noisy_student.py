"""The whole graph by the real command, on real digits: Ray, MLflow, shards, and nothing done twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests import runs
from tests.finished import Finished

ORDER = ["data", "teacher", "teacher/evaluate", "student_1/score", "student_1/select", "student_1/shard", "student_1"]


def test_the_json_line(finished: Finished) -> None:
    assert len(finished.out.strip().splitlines()) == 1
    assert [s["name"] for s in finished.result["stages"]] == [*ORDER, "student_1/evaluate", "report"]
    for stage in finished.result["stages"]:
        assert set(stage) == {"name", "key", "state", "seconds", "metrics"}
        assert stage["state"] == "ran"
    for name in ("teacher/test_accuracy", "student_1/test_accuracy"):
        assert 0.6 < finished.result["metrics"][name] <= 1


def test_a_cached_run_starts_neither_ray_nor_torch(finished: Finished) -> None:
    code = (
        "import sys; from sslscale.cli.main import main\n"
        f"code = main(['run', {str(finished.config)!r}, '--root', {str(finished.root)!r}, '--json'])\n"
        "heavy = {'ray', 'torch', 'mlflow', 'numpy', 'pyarrow'} & set(sys.modules)\n"
        "assert code == 0 and not heavy, heavy\n"
    )
    again = runs.result(runs.python(code))
    assert {s["state"] for s in again["stages"]} == {"cached"}
    assert again["metrics"] == finished.result["metrics"]


def test_help_imports_no_library() -> None:
    code = (
        "import sys; from sslscale.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'ray', 'torch', 'mlflow', 'numpy', 'pyarrow', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    assert "sslscale run" in runs.python(code)


def test_config_errors_come_at_once_and_start_nothing(tmp_path: Path) -> None:
    config = runs.write(
        tmp_path, runs.TINY.replace("dropout: 0.2", "dropuot: 0.2").replace("num_steps: 60", "num_steps: -1")
    )
    _, err = runs.sslscale("run", config, "--root", tmp_path / "runs", code=2)
    assert "student.model.dropuot: there is no such key; did you mean 'dropout'?" in err
    assert "student.num_steps: must be positive" in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()
    _, err = runs.sslscale("run", tmp_path / "tinny.yaml", code=2)
    assert "did you mean" in err


def test_the_plan_names_what_changed(finished: Finished) -> None:
    words = ("run", finished.config, "--root", finished.root, "--plan", "--json")
    out, _ = runs.sslscale(*words, "student.model.dropout=0.3")
    plan = {s["name"]: s for s in runs.result(out)["stages"]}
    assert [plan[n]["state"] for n in ORDER] == ["cached"] * 6 + ["run"]
    assert plan["student_1"]["why"].startswith("model.dropout: 0.2 -> 0.3 (nearest")
    out, _ = runs.sslscale("plan", *words[1:4], "--estimate", "--json", "student.num_steps=120")
    costs = {s["name"]: s for s in runs.result(out)["stages"]}
    measured = runs.stages(finished.result)["student_1"]["seconds"]
    assert costs["student_1"]["seconds"] == pytest.approx(2 * measured)  # twice the steps
    assert costs["student_1"]["bytes"] > 10_000 and "seconds" not in costs["teacher"]
    out, _ = runs.sslscale("run", finished.config, "student.log_every=3", "--plan", "--root", finished.root)
    assert "0 to run, 9 cached" in out


def test_every_image_is_accounted_for(finished: Finished) -> None:
    counts = json.loads((finished.folder("student_1/select") / "stats.json").read_text())["accounting"]
    index = json.loads((finished.folder("data") / "unlabeled" / "index.json").read_text())
    assert (
        counts["samples"] == index["num_samples"] == counts["used"] + counts["below_threshold"] + counts["balanced_out"]
    )
    assert counts["used"] > 500
    page = (finished.folder("report") / "report.html").read_text()
    assert f"{counts['used']:,}" in page and "below threshold" in page


@pytest.mark.slow
def test_robustness_joins_a_finished_run(finished: Finished) -> None:
    small = ("robustness.max_images=20", "robustness.pgd_steps=1", "robustness.epsilons=[8.0]")
    out, _ = runs.sslscale("run", finished.config, *small, "--root", finished.root, "--json")
    found = runs.result(out)
    fresh = {s["name"] for s in found["stages"] if s["state"] == "ran"}
    assert fresh == {"teacher/robustness", "student_1/robustness", "report"}
    metrics = {s["name"]: s["metrics"] for s in found["stages"]}
    assert "mce" not in metrics["teacher/robustness"] and metrics["student_1/robustness"]["mce"] > 0
    page = (runs.folder_of(finished.root, found, "report") / "report.html").read_text()
    assert ">Robustness</h2>" in page and "student_1: error by corruption" in page


def test_plain_webdataset_opens_the_students_shards(finished: Finished) -> None:
    """In a process that never imports sslscale."""
    folder = finished.folder("student_1/shard")
    code = (
        "import sys, io, glob, json, numpy as np, webdataset as wds\n"
        "from PIL import Image\n"
        f"urls = sorted(glob.glob({str(folder)!r} + '/*.tar'))\n"
        "found = list(wds.WebDataset(urls, shardshuffle=False))\n"
        "for s in found:\n"
        "    soft = np.load(io.BytesIO(s['soft.npy']), allow_pickle=False)\n"
        "    assert soft.shape == (10,) and abs(soft.sum() - 1) < 1e-4 and soft.argmax() == int(s['cls'])\n"
        "    assert Image.open(io.BytesIO(s['png'])).size == (8, 8)\n"
        "assert 'sslscale' not in sys.modules\n"
        "print(json.dumps([s['__key__'] for s in found]))\n"
    )
    keys = json.loads(runs.python(code))
    stats = json.loads((finished.folder("student_1/select") / "stats.json").read_text())
    assert len(keys) == len(set(keys)) == sum(stats["after"])
    assert any("-copy1" in key for key in keys)


@pytest.mark.slow
def test_joining_while_reading_trains_the_same_student(finished: Finished) -> None:
    """`materialize: false` copies no shard and gives the very same weights."""
    words = ("run", finished.config, "materialize=false", "--root", finished.root, "--json")
    out, _ = runs.sslscale(*words)
    found = runs.result(out)
    assert "student_1/shard" not in runs.stages(found)
    assert [runs.stages(found)[n]["state"] for n in ("teacher", "student_1/select", "student_1")] == [
        "cached",
        "cached",
        "ran",
    ]
    one = (finished.folder("student_1") / "model.safetensors").read_bytes()
    two = (runs.folder_of(finished.root, found, "student_1") / "model.safetensors").read_bytes()
    assert one == two


def test_mlflow_holds_the_run(finished: Finished) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{finished.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("noisy_student")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    parent = next(r for r in found if "mlflow.parentRunId" not in r.data.tags)
    children = {
        r.data.tags["mlflow.runName"]: r for r in found if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    }
    assert set(children) == {s["name"] for s in finished.result["stages"]}
    assert {r.info.status for r in [parent, *children.values()]} == {"FINISHED"}
    accuracy = finished.result["metrics"]["student_1/test_accuracy"]
    assert parent.data.metrics["student_1/test_accuracy"] == pytest.approx(accuracy)
    assert parent.data.params["student.model.name"] == "wrn_10_0.5"
    assert parent.data.tags["mlflow.source.git.commit"]
    student = children["student_1"]
    history = client.get_metric_history(student.info.run_id, "loss")
    assert [m.step for m in history] == [10, 20, 30, 40, 50, 60]
    assert student.inputs is not None
    inputs = {d.tags[0].value: d.dataset.digest for d in student.inputs.dataset_inputs}
    assert inputs["pseudo"] == runs.stages(finished.result)["student_1/shard"]["key"]
    assert "curves.png" in {f.path for f in client.list_artifacts(student.info.run_id)}
    trained = [r for r in [parent, *children.values()] if "accuracy" in r.data.metrics]
    assert {r.data.tags["mlflow.runName"] for r in trained[1:]} == {"teacher", "student_1"}  # one column sorts them all
    assert student.data.metrics["accuracy"] == pytest.approx(accuracy)
    assert "noisy_student training of wrn_10_0.5" in student.data.tags["mlflow.note.content"]
    view = json.loads(experiment.tags["mlflow.sharedViewState.sslscale"])
    assert view["orderByKey"] == "metrics.`accuracy`" and "metrics.`test_accuracy`" in view["selectedColumns"]
    assert "report.html" in {f.path for f in client.list_artifacts(parent.info.run_id)}
    select = {f.path for f in client.list_artifacts(children["student_1/select"].info.run_id)}
    assert {"confidence.png", "class_counts.png", "stats.json"} <= select


def test_a_registered_model_answers_encoded_images_without_pickle(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    import pandas as pd

    from sslscale.data.samples import open_samples
    from sslscale.evaluate.model import Model

    out, _ = runs.sslscale("register", "student_1", "digits", "--alias", "champion", "--root", finished.root)
    assert "registered digits, version 1: mlflow.pyfunc.load_model('models:/digits@champion')" in out
    _, err = runs.sslscale("register", "student_1", "a/b", "--root", finished.root, code=2)
    assert "name a model by letters" in err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished.root / 'mlflow.db'}")
    model = mlflow.pyfunc.load_model("models:/digits@champion", dst_path=str(tmp_path))
    assert not [file for file in tmp_path.rglob("*") if file.suffix in (".pkl", ".pickle", ".pt", ".bin")]
    samples = open_samples(finished.folder("data") / "test")
    images = [bytes(samples.shards[0].encoded(row)) for row in range(8)]
    found = model.predict(pd.DataFrame({"image": images}))
    own = Model(finished.folder("student_1"))
    rows = own.rows(images, probabilities=True)
    assert list(found["class"]) == [own.named(np.asarray(row), 1)[0][0] for row in rows]
    np.testing.assert_allclose(found["probability"], [np.asarray(row).max() for row in rows], rtol=1e-5)
    assert list(model.predict(model.input_example).columns) == ["class", "probability"]
    schema = model.metadata.get_output_schema()
    assert schema is not None and schema.input_names() == ["class", "probability"]
    with pytest.raises(Exception, match="image 1: undecodable image"):
        model.predict(pd.DataFrame({"image": [images[0], b"no"]}))


def test_predict_agrees_with_the_evaluation(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sslscale.data.samples import open_samples

    samples = open_samples(finished.folder("data") / "test")
    shard, row = samples.places()
    for i in range(60):
        file = tmp_path / f"{int(samples.labels[i])}-{i}.png"
        file.write_bytes(samples.shards[int(shard[i])].encoded(int(row[i])))
    model = finished.folder("student_1")
    out, _ = runs.sslscale("predict", model, tmp_path, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    right = np.mean([Path(r["path"]).name[0] == r["predictions"][0]["class"] for r in rows])
    assert len(rows) == 60
    assert right > 0.7
    table = tmp_path / "table.csv"  # of as many classes as there are
    runs.in_process(capsys, "predict", model, rows[0]["path"], "--top", "1000000", "--out", table)
    assert table.read_text().splitlines()[0].endswith("class_10,probability_10")
    (tmp_path / "no.png").write_bytes(b"no")
    out, err = runs.in_process(
        capsys, "predict", model, tmp_path / "no.png", tmp_path / "none.png", rows[0]["path"], code=3
    )
    assert "no.png: undecodable image" in err and "none.png: cannot be read" in err
    assert len(out.splitlines()) == 1
    (tmp_path / "empty").mkdir()
    _, err = runs.in_process(capsys, "predict", model, tmp_path / "empty", code=3)
    assert "no images there" in err
    _, err = runs.in_process(capsys, "predict", rows[0]["path"], rows[0]["path"], code=3)
    assert "no checkpoint there" in err
    _, err = runs.in_process(capsys, "predict", tmp_path, tmp_path, code=3)
    assert "no checkpoint there" in err


def test_ls_and_gc(finished: Finished) -> None:
    out, _ = runs.sslscale("ls", "--root", finished.root, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert {r["key"] for r in rows} >= {s["key"] for s in finished.result["stages"]}
    assert all(r["bytes"] > 0 and r["state"] == "finished" for r in rows)
    stray = finished.root / "artifacts" / "train" / "0123456789ab"
    stray.mkdir()
    out, _ = runs.sslscale("gc", "--root", finished.root, "--dry-run")
    assert "0123456789ab" in out and stray.exists()
    runs.sslscale("gc", "--root", finished.root)
    assert not stray.exists()
    assert all(finished.folder(n).exists() for n in ORDER)
    _, err = runs.sslscale("ls", "--root", finished.root / "none", code=2)
    assert "there is no such root" in err


def test_pack_and_check_by_the_command(image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = runs.sslscale("data", "pack", image_folder, tmp_path / "s", "--labels-per-class", "5", "--test", "0.2")
    assert "labeled            50 images" in out
    out, _ = runs.in_process(capsys, "data", "check", tmp_path / "s")
    assert "no problems" in out
    _, err = runs.in_process(capsys, "data", "pack", image_folder, tmp_path / "s", code=2)
    assert "is there already" in err
    file = next((tmp_path / "s" / "labeled").glob("*.tar"))
    file.write_bytes(file.read_bytes()[:-512])
    out, _ = runs.in_process(capsys, "data", "check", tmp_path / "s", code=3)
    assert file.name in out and "\n1 problem\n" in out
    _, err = runs.in_process(capsys, "data", "pack", tmp_path / "none", tmp_path / "t", code=3)
    assert "there is no such file or folder" in err and "Traceback" not in err


def test_library_output_goes_to_the_log_files(finished: Finished) -> None:
    assert "INFO" not in finished.err and "Warning" not in finished.err
    assert "student_1: ran in" in finished.err and "test accuracy" in finished.err
    assert list(finished.root.glob("logs/*/student_1.log"))
