"""Roots and data in a real S3 server (moto's): made on one machine, gone on with on another, used by several."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sslscale import experiment
from sslscale.cli.main import main
from sslscale.data.samples import open_samples
from sslscale.errors import DataError
from sslscale.graph import collect, dag, execution
from sslscale.storage import mirror
from sslscale.storage.scratch import Local, scratch
from tests import runs
from tests.integration.bad_network import bad_network
from tests.unit.test_webdatasets import write as write_webdataset

pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    """The environment of clients of an S3 server that has one bucket, `lab`."""
    port = runs.free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    env = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        runs.wait_for_port(port)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            bucket().create_bucket(Bucket="lab")
        yield env
    finally:
        process.terminate()
        process.wait(timeout=30)


def bucket() -> Any:
    import boto3

    return boto3.client("s3")


@pytest.fixture
def s3(server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """This process as a client of the server."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)


def names(prefix: str) -> set[str]:
    pages = bucket().get_paginator("list_objects_v2").paginate(Bucket="lab", Prefix=prefix)
    return {found["Key"].removeprefix(prefix) for one in pages for found in one.get("Contents", [])}


def machine(env: dict[str, str], folder: Path) -> dict[str, str]:
    """A machine that has nothing of the store yet."""
    shutil.rmtree(folder, ignore_errors=True)
    return {**env, "SSLSCALE_SCRATCH": str(folder)}


def lose(folder: Path) -> None:
    """Remove a machine's files; its workers end with the run that was killed, but may write for a moment."""
    time.sleep(2)
    for _ in range(100):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.3)
    raise AssertionError(f"{folder} comes back again and again")


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_elsewhere(s3: None, server: dict[str, str], tmp_path: Path) -> None:
    config, root = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml"), "s3://lab/killed"
    first = machine(server, tmp_path / "first")
    process = runs.start("run", config, "--root", root, env=first)
    runs.kill_when(process, lambda: any(name.endswith("/commit.json") for name in names("killed/")))
    lose(tmp_path / "first")
    done = {name for name in names("killed/") if name.startswith("records/")}
    assert {name.split(".")[0] for name in done} == {"records/pack"}  # the training is no artifact yet

    second = machine(server, tmp_path / "second")
    out, _ = runs.sslscale("run", config, "--root", root, "--json", env=second)
    found = runs.result(out)
    assert runs.stages(found)["data"]["state"] == "cached" and runs.stages(found)["model"]["state"] == "ran"
    left = names("killed/")
    assert not any("/state/" in name or "writer.lock" in name or ".tmp" in name for name in left)
    (mirrored,) = (folder.parent for folder in (tmp_path / "second").glob("*/artifacts"))
    steps = [row["step"] for row in runs.rows(runs.folder_of(mirrored, found, "model"))]
    assert steps == list(range(10, 401, 10))
    logs = "".join(file.read_text() for file in (tmp_path / "second").glob("*/logs/*/model.log"))
    assert "going on from step" in logs

    # nothing is missing for a third, which fetches no more than it shows
    third = machine(server, tmp_path / "third")
    again = runs.result(runs.sslscale("run", config, "--root", root, "--json", env=third)[0])
    assert {stage["state"] for stage in again["stages"]} == {"cached"} and again["metrics"] == found["metrics"]
    assert not list((tmp_path / "third").rglob("*.tar")) and not list((tmp_path / "third").rglob("*.safetensors"))
    listed = [json.loads(line) for line in runs.sslscale("ls", "--root", root, "--json", env=third)[0].splitlines()]
    by_name = {row["name"]: row for row in listed}
    assert by_name["model"]["bytes"] > 50_000 and by_name["model"]["state"] == "finished"


def test_gc_removes_unused_artifacts_from_the_store(s3: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for number in (10, 10, 5):
        monkeypatch.setenv("SSLSCALE_SCRATCH", str(tmp_path / f"machine-{len(found)}"))
        root = mirror.open_root("s3://lab/shared")
        values = {"pipeline": str(runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml").parent / "short.py")}
        text = yaml.safe_load(runs.SHORT_CONFIG) | values
        loaded = experiment.of_values("short.yaml", text, [f"train.num_steps={number}"])
        planned = dag.plan(loaded.targets, root)
        found.append([entry.state for entry in planned])
        collect.remember(root, "short.yaml", planned)
        execution.run(planned, root, execution.Inline())
    assert found == [["run"] * 4, ["cached"] * 4, ["cached", "run", "run", "run"]]
    assert len([name for name in names("shared/records/") if name.startswith("train.")]) == 2
    gone = {path.parent.name for path, _ in collect.collect(root)}
    assert gone == {"train", "evaluate", "sslscale_pipeline_short.weigh"}
    for prefix in ("shared/records/train.", "shared/artifacts/train/"):
        keys = {re.split(r"[./]", name)[0] for name in names(prefix)}
        assert keys == {planned[1].key}
    monkeypatch.setenv("SSLSCALE_SCRATCH", str(tmp_path / "machine-0"))  # it had the one that is gone
    old = experiment.of_values("short.yaml", text, ["train.num_steps=10"])
    assert [entry.state for entry in dag.plan(old.targets, mirror.open_root("s3://lab/shared"))][1] == "run"


def test_data_and_checkpoints_in_a_store(
    s3: None, finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def elsewhere() -> None:
        monkeypatch.setenv("SSLSCALE_SCRATCH", str(tmp_path / f"scratch-{uuid.uuid4().hex[:4]}"))

    split = ["--test", "0.25", "--shard-size", "100"]
    elsewhere()
    assert main(["data", "pack", "digits", "s3://lab/digits", *split]) == 0
    assert main(["data", "pack", "digits", str(tmp_path / "digits"), *split]) == 0
    elsewhere()
    assert main(["data", "check", "s3://lab/digits"]) == 0
    assert "1,347" in capsys.readouterr().out
    assert main(["data", "pack", "digits", "s3://lab/digits"]) == 2
    assert "s3://lab/digits: is there already" in capsys.readouterr().err
    model = mirror.at("s3://lab/model", tmp_path / "model")
    for name in ("model.json", "model.safetensors"):
        shutil.copy(finished.folder("teacher") / name, tmp_path / "model" / name)
    model.push(tmp_path / "model")
    elsewhere()
    metrics = []
    for place, root in (("s3://lab", tmp_path / "of-store"), (str(tmp_path), tmp_path / "of-folder")):
        values = {"pipeline": "evaluate", "model": f"{place}/model", "data": {"source": f"{place}/digits"}}
        loaded = experiment.of_values("eval", values | {"protocols": ["knn"]}, [])
        metrics.append(experiment.metrics(execution.run(dag.plan(loaded.targets, root), root, execution.Inline())))
    assert metrics[0] == metrics[1] and len(metrics[0]) > 0
    assert not list((tmp_path / "of-store").rglob("*.tar"))  # fetched to this machine's disk, not into the root
    fetched = list(scratch().rglob("shards/*.tar"))
    assert len(fetched) == 14 + 5
    image = next(iter((tmp_path / "digits").rglob("*.tar")))
    assert image.read_bytes() in [file.read_bytes() for file in fetched]


def test_anothers_shards_in_a_store_are_indexed_and_read_there(
    s3: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSLSCALE_SCRATCH", str(tmp_path / "scratch"))
    folder = write_webdataset(tmp_path / "theirs")
    theirs = mirror.at("s3://lab/theirs", folder)
    theirs.push(folder)
    for shards in ("s3://lab/theirs/{00000..00002}.tar", "s3://lab/theirs/*.tar"):
        out = tmp_path / shards.replace("/", "_")
        assert main(["data", "index", shards, str(out), "--test", "0.2"]) == 0
        samples = open_samples(out / "labeled", local=Local(tmp_path / "disk"))
        assert samples.index.shards[0].url == "s3://lab/theirs/00000.tar"
        found = {samples.key(n) for n in range(len(samples))}
        assert len(found) == len(samples) >= 45
    assert len(list((tmp_path / "disk").rglob("*.tar"))) == 3
    capsys.readouterr()
    assert main(["data", "index", "s3://lab/theirs/{00000..00009}.tar", str(tmp_path / "no")]) == 3
    assert "there is no shard s3://lab/theirs/00003.tar" in capsys.readouterr().err
    theirs.store.remove("00001.tar")  # in mid-run
    samples = open_samples(out / "labeled", local=Local(tmp_path / "fresh"))
    with pytest.raises(DataError, match=r"s3://lab/theirs/00001\.tar: is not there, though the index has it"):
        list(samples.shards)


def test_errors_of_a_store_are_one_line(server: dict[str, str], tmp_path: Path) -> None:
    config = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml")
    env = machine(server, tmp_path / "scratch")
    for root, code, expected, more in (
        ("s3://nowhere/runs", 4, "is there such a bucket?", {}),
        ("s3://lab/runs", 4, "the store does not answer", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}),
        ("nothing://lab/runs", 2, "Protocol not known", {}),
        ("simplecache::s3://lab/runs", 2, "not a chain", {}),
    ):
        _, err = runs.sslscale("run", config, "--root", root, code=code, env={**env, **more})
        assert err.startswith(f"error: {root}") and expected in err and err.count("\n") == 1, err
    words = ("run", config, "data.source=s3://lab/none", "data.test=null", "data.labels_per_class=null")
    _, err = runs.sslscale(*words, "--root", tmp_path / "root", code=3, env=env)
    assert "s3://lab/none: no packed images there" in err


@pytest.mark.slow
def test_a_run_over_a_bad_network_ends_as_over_a_good_one(s3: None, server: dict[str, str], tmp_path: Path) -> None:
    """A tenth of all requests is answered with 503, a tenth is cut short, some are late."""
    config = runs.write(tmp_path, runs.SHORT_CONFIG.replace("num_steps: 400", "num_steps: 60"), "short.yaml")
    runs.sslscale("run", config, "--root", "s3://lab/good", env=machine(server, tmp_path / "one"))
    target = server["AWS_ENDPOINT_URL"].removeprefix("http://")
    with bad_network(target, {"503": 0.1, "cut": 0.1, "late": 0.05}) as network:
        env = {**machine(server, tmp_path / "two"), "AWS_ENDPOINT_URL": network.url}
        runs.sslscale("run", config, "--root", "s3://lab/bad", env=env)
        assert min(network.counts[fault] for fault in ("503", "cut", "late")) > 5, network.counts
    every = names("bad/artifacts/")
    assert every == names("good/artifacts/") and any(name.endswith("model.safetensors") for name in every)
    for name in every:
        if name.endswith((".tar", ".safetensors", "index.json")):
            good, bad = (bucket().get_object(Bucket="lab", Key=f"{r}/artifacts/{name}") for r in ("good", "bad"))
            assert good["Body"].read() == bad["Body"].read(), name


@pytest.mark.slow
def test_a_store_that_only_fails_is_one_line_in_bounded_time(server: dict[str, str], tmp_path: Path) -> None:
    config = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml")
    with bad_network(server["AWS_ENDPOINT_URL"].removeprefix("http://"), {"503": 1.0}) as network:
        env = {**machine(server, tmp_path / "scratch"), "AWS_ENDPOINT_URL": network.url}
        _, err = runs.sslscale("run", config, "--root", "s3://lab/runs", code=4, env=env)
        assert err.startswith("error: s3://lab/runs") and err.count("\n") == 1, err
        assert 5 <= network.counts["503"] <= 60


@pytest.fixture
def nodes(server: dict[str, str], tmp_path: Path) -> Iterator[dict[str, str]]:
    """A head that only drives and two nodes of one CPU, each with a scratch folder that it alone sees."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    alone = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {scratch} && exec "$@"', "sh"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("mount namespaces are not allowed here")
    env = {**server, "SSLSCALE_SCRATCH": str(scratch), "RAY_worker_niceness": "0", "RAY_AUTH_MODE": "disabled"}
    ray = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--block",
        "--disable-usage-stats",
        "--node-ip-address=127.0.0.1",
    ]
    port = runs.free_port()
    head = ["--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false"]
    processes = []

    def begin(command: list[str]) -> None:
        processes.append(
            subprocess.Popen(
                command,
                env={**os.environ, **env},
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

    try:
        begin([*ray, *head])
        runs.wait_for_port(port)
        env["RAY_ADDRESS"] = f"127.0.0.1:{port}"
        count = "import ray; ray.init(logging_level='ERROR'); print(sum(n['Alive'] for n in ray.nodes()))"
        deadline = time.monotonic() + 120
        for number in (2, 3):  # one after the other: on one machine they would ask for the same ports
            begin([*alone, *ray, f"--address=127.0.0.1:{port}", "--num-cpus=1"])
            while True:
                done = subprocess.run([sys.executable, "-c", count], env={**os.environ, **env}, capture_output=True)
                if done.stdout.strip().endswith(b"%d" % number):
                    break
                assert time.monotonic() < deadline, done
        yield env
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=60)


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_elsewhere(s3: None, server: dict[str, str], tmp_path: Path) -> None:
    config, root = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml"), "s3://lab/search"
    space = tmp_path / "space.yaml"
    space.write_text(
        "metric: model/test_accuracy\nsamples: 3\nsearch: random\nconcurrent: 1\nset: {train.num_steps: 900}\n"
        "space: {train.optim.lr: {loguniform: [0.001, 0.3]}}\n"
    )
    words = ("tune", config, "--space", space, "--root", root, "--json")

    def ended() -> set[str]:
        return {name for name in names("search/records/") if name.startswith("evaluate.")}

    first = machine(server, tmp_path / "first")
    runs.kill_when(runs.start(*words, env=first), lambda: len(ended()) == 1)
    time.sleep(3)  # its workers end with it
    before = ended()
    second = machine(server, tmp_path / "second")
    found = runs.result(runs.sslscale(*words, env=second)[0])
    assert [row["state"] for row in found["trials"]] == ["ended"] * 3
    assert before <= ended() and len(ended()) == 3, (before, ended())  # whichever of the three were there
    assert {"best.yaml", "trials.csv", "report.html"} <= {name.split("/")[-1] for name in names("search/tune/")}
    assert "s3://lab/search" in Path(found["report"]).read_text()
    third = machine(server, tmp_path / "third")
    again = runs.result(runs.sslscale(*words, env=third)[0])
    assert again["trials"] == found["trials"] and again["best"] == found["best"]


@pytest.mark.slow
def test_a_root_that_a_node_cannot_see_is_an_error(nodes: dict[str, str], tmp_path: Path) -> None:
    config, root = runs.write(tmp_path, runs.TINY), Path(nodes["SSLSCALE_SCRATCH"]) / "root"
    _, err = runs.sslscale("run", config, "--root", root, code=4, env=nodes)
    assert f"error: --root {root}: 2 of 3 nodes do not see it" in err and "mount it there" in err


@pytest.mark.slow
def test_nodes_share_nothing_but_the_store(s3: None, nodes: dict[str, str], tmp_path: Path) -> None:
    """Scoring, sharding and training with two workers, on nodes that do not see each other's files."""
    config = runs.write(tmp_path, runs.TINY)
    two = [f"resources.{kind}.num_workers=2" for kind in ("score", "train")]
    steps = ["teacher.num_steps=60", "student.num_steps=20", "student.save_every=10"]
    out, _ = runs.sslscale("run", config, *steps, *two, "--root", "s3://lab/nodes", "--json", env=nodes)
    found = runs.result(out)
    alone, _ = runs.sslscale("run", config, *steps, *two, "--root", tmp_path / "root", "--json")
    for name in ("teacher/test_accuracy", "student_1/test_accuracy"):
        assert abs(found["metrics"][name] - runs.result(alone)["metrics"][name]) < 0.003
    there = names("nodes/artifacts/")
    key = runs.stages(found)["student_1/score"]["key"]
    assert len([name for name in there if name.startswith(f"score/{key}/scores-")]) == 50
    assert not any("/state/" in name for name in there)
