"""kill -9 of whatever is at work: the same command again finishes, and nothing finished is done twice."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests import runs
from tests.faults.chaos import chaos
from tests.finished import Finished


def find(root: Path, pattern: str) -> list[Path]:
    return sorted(root.glob(f"artifacts/{pattern}"))


@pytest.mark.slow
def test_the_driver_killed_in_scoring_and_in_training(finished: Finished, tmp_path: Path) -> None:
    """The weights at the end are those of the run that nobody killed, bit for bit."""
    config, root = runs.write(tmp_path, runs.TINY), tmp_path / "runs"
    run = ("run", config, "--root", root, "--json")

    runs.kill_when(runs.start(*run), lambda: len(find(root, "score/*/scores-*.parquet")) >= 3)
    scored = {p.name: p.stat().st_mtime_ns for p in find(root, "score/*/scores-*.parquet")}
    teacher = find(root, "train/*/record.json")
    assert len(teacher) == 1 and not find(root, "score/*/record.json")
    taught = teacher[0].stat().st_mtime_ns

    runs.kill_when(runs.start(*run), lambda: len(find(root, "train/*/state/step-*/commit.json")) >= 1)
    assert not find(root, "report/*/record.json")

    out, err = runs.sslscale(*run)
    found = runs.result(out)
    states = {name: s["state"] for name, s in runs.stages(found).items()}
    assert states["data"] == states["teacher"] == states["student_1/score"] == states["student_1/shard"] == "cached"
    assert states["student_1"] == states["report"] == "ran"
    assert teacher[0].stat().st_mtime_ns == taught

    scores = runs.folder_of(root, found, "student_1/score")
    after = {p.name: p.stat().st_mtime_ns for p in scores.glob("scores-*.parquet")}
    assert len(after) == 50 and len(scored) < 50
    assert all(after[name] == stamp for name, stamp in scored.items())
    shards = [row["shard"] for row in runs.rows(scores)]
    assert len(shards) == len(set(shards))

    student = runs.folder_of(root, found, "student_1")
    steps = [row["step"] for row in runs.rows(student)]
    assert steps == [10, 20, 30, 40, 50, 60]
    golden = finished.folder("student_1")
    assert student.name == golden.name
    assert (student / "model.safetensors").read_bytes() == (golden / "model.safetensors").read_bytes()
    assert not list(root.rglob("*.tmp*"))
    log = "".join(p.read_text() for p in root.glob("logs/*/student_1.log"))
    assert "going on from step" in log and "student_1: going on from step" in err


def processes_of(driver: int, name: str) -> list[psutil.Process]:
    """The processes of a run whose command line has this name, the oldest first."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if name in " ".join(process.cmdline()):
                found.append((process.create_time(), process))
    return [process for _, process in sorted(found, key=lambda pair: pair[0])]


def training_workers(driver: int) -> list[psutil.Process]:
    return processes_of(driver, "RayTrainWorker")


@pytest.mark.slow
def test_one_of_two_workers_killed_and_tracking_out_of_reach(tmp_path: Path) -> None:
    """Training starts again from the last checkpoint; a dead MLflow server costs one warning."""
    config, root = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml"), tmp_path / "runs"
    process = runs.start(
        "run",
        config,
        "resources.num_workers=2",
        "train.sync_batch_norm=true",
        "--root",
        root,
        "--json",
        env={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
    )
    deadline = time.monotonic() + 150
    while len(find(root, "train/*/state/step-*/commit.json")) < 1:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = training_workers(process.pid)
    assert len(workers) == 2
    os.kill(workers[1].pid, signal.SIGKILL)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err[-3000:]
    found = runs.result(out)
    model = runs.folder_of(root, found, "model")
    steps = [row["step"] for row in runs.rows(model)]
    assert steps == list(range(10, 401, 10))
    assert found["metrics"]["model/test_accuracy"] > 0.8
    logs = "".join(p.read_text() for p in root.glob("logs/*worker0.log"))
    assert "going on from step" in logs
    assert err.count("warning: tracking at http://127.0.0.1:9 does not answer: the same command sends it") == 1


@pytest.mark.slow
def test_one_of_two_scoring_workers_killed(finished: Finished) -> None:
    """Its shard goes to another; every shard is scored once more or less, and to the same labels as by one worker."""
    import numpy as np
    import pyarrow.parquet as parquet

    root = finished.root
    words = ("run", finished.config, "score.top_k=3", "resources.score.num_workers=2", "--root", root, "--json")
    before = set(find(root, "score/*"))
    process = runs.start(*words)

    def scored() -> list[Path]:
        return [p for folder in set(find(root, "score/*")) - before for p in folder.glob("scores-*.parquet")]

    deadline = time.monotonic() + 100
    while len(scored()) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    mappers = processes_of(process.pid, "_Mapper")
    assert len(mappers) == 2
    os.kill(mappers[0].pid, signal.SIGKILL)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err[-3000:]
    found = runs.result(out)
    one, two = finished.folder("student_1/score"), runs.folder_of(root, found, "student_1/score")
    shards = [row["shard"] for row in runs.rows(two)]
    assert sorted(shards) == list(range(50))
    for number in range(50):
        whole, top = (parquet.read_table(f / f"scores-{number:06d}.parquet") for f in (one, two))
        assert whole["key"].equals(top["key"])
        assert whole["label"].equals(top["label"])
        kept = np.asarray(top["probs"].combine_chunks().flatten()).reshape(-1, 3)
        every = np.asarray(whole["probs"].combine_chunks().flatten()).reshape(-1, 10)
        assert np.allclose(kept, np.sort(every, 1)[:, :-4:-1], rtol=1e-3)  # float16


@pytest.mark.slow
def test_two_runs_over_one_root_at_once(tmp_path: Path) -> None:
    """Each stage runs once; the other run waits for it and takes its result."""
    config, root = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml"), tmp_path / "runs"
    both = [runs.start("run", config, "--root", root, "--json") for _ in range(2)]
    ended = [p.communicate(timeout=250) for p in both]
    assert [p.returncode for p in both] == [0, 0], ended
    found = [runs.stages(runs.result(out)) for out, _ in ended]
    for name in ("data", "model", "model/evaluate"):
        assert sorted(f[name]["state"] for f in found) == ["cached", "ran"]
    assert found[0]["model/weigh"]["metrics"] == {"weights": 20.794}
    assert found[0]["model"]["metrics"] == found[1]["model"]["metrics"]
    assert "waiting for its result" in ended[0][1] + ended[1][1]


@pytest.mark.slow
def test_one_interrupt_ends_a_run_and_says_what_is_kept(tmp_path: Path) -> None:
    config, root = runs.write(tmp_path, runs.TINY), tmp_path / "runs"
    process = runs.start("run", config, "--root", root)

    def student_saves() -> bool:
        return len(find(root, "*/*/record.json")) >= 5 and bool(find(root, "train/*/state/step-*/commit.json"))

    runs.wait_until(student_saves, process)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"kept: [56] of 9 stages, and student_1 up to step \d+", out), out
    assert err.strip().splitlines()[-1] == "stopped; the same command goes on where it was"
    psutil.wait_procs(children, timeout=20)
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_saves_the_step_that_a_training_is_at(workers: int, tmp_path: Path) -> None:
    """No other state is due; it goes on from there, on one worker to the same weights bit for bit."""
    config, own = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml"), tmp_path / "terminated"
    words = ("run", config, f"resources.num_workers={workers}", "train.sync_batch_norm=true")
    words += ("train.num_steps=200", "train.save_every=100000")
    process = runs.start(*words, "--root", own)
    runs.wait_until(lambda: any(len(runs.rows(f.parent)) >= 3 for f in find(own, "train/*/metrics.jsonl")), process)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    (saved,) = find(own, "train/*/state/step-*/commit.json")
    step = int(saved.parent.name.removeprefix("step-"))
    assert 30 <= step < 200 and f"kept: 1 of 4 stages, and model up to step {step:,}" in out
    assert err.strip().splitlines()[-1] == "stopped; the same command goes on where it was"
    psutil.wait_procs(children, timeout=20)
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]

    found, golden = (runs.result(runs.sslscale(*words, "--root", root, "--json")[0]) for root in (own, tmp_path / "r"))
    assert f"going on from step {step}\n" in "".join(f.read_text() for f in own.glob("logs/**/*.log"))
    model, whole = runs.folder_of(own, found, "model"), runs.folder_of(tmp_path / "r", golden, "model")
    assert [row["step"] for row in runs.rows(model)] == list(range(10, 201, 10))
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (model, whole))
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=0 if workers == 1 else 1e-3, atol=1e-4 * (workers - 1))


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["Ray starts", "Ray has ended"])
def test_sigterm_beside_the_stages_ends_a_run_as_in_them(moment: str, tmp_path: Path) -> None:
    """Ray sets its own handlers when it starts, and the system's when it ends."""
    config, root = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml"), tmp_path / "runs"
    words = ("run", config, "train.num_steps=40", "--root", root)
    process = runs.start(*words)

    def ready() -> bool:
        if moment == "Ray starts":
            return bool(processes_of(process.pid, "gcs_server"))
        return len(find(root, "*/*/record.json")) == 4 and not processes_of(process.pid, "gcs_server")

    runs.wait_until(ready, process)
    process.terminate()
    _, err = process.communicate(timeout=100)
    assert process.returncode == 143, err
    assert err.strip().splitlines()[-1] == "stopped; the same command goes on where it was"
    out, _ = runs.sslscale(*words, "--json")
    assert len(runs.result(out)["stages"]) == 4


@pytest.mark.slow
def test_a_worker_that_hangs_is_given_up_and_all_start_again(tmp_path: Path) -> None:
    """The log shows where the other waited; the result is that of a run in which nothing hung."""
    config, root = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml"), tmp_path / "runs"
    words = ("run", config, "resources.num_workers=2", "train.sync_batch_norm=true", "--root", root, "--json")
    process = runs.start(*words, "resources.timeout_s=10")
    runs.wait_until(lambda: len(find(root, "train/*/state/step-*/commit.json")) >= 1, process, 150)
    os.kill(training_workers(process.pid)[1].pid, signal.SIGSTOP)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    model = runs.folder_of(root, runs.result(out), "model")
    assert [row["step"] for row in runs.rows(model)] == list(range(10, 401, 10))
    log = "".join(f.read_text() for f in root.glob("logs/**/*.log"))
    assert "going on from step" in log and "(most recent call first)" in log and "train_step" in log


@pytest.mark.slow
def test_a_worker_without_memory_is_told_a_smaller_batch(tmp_path: Path) -> None:
    """The node's guard kills the training whenever it begins; what was done before it is kept."""
    config, root = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml"), tmp_path / "runs"
    runs.sslscale("run", config, "--root", root, "train.num_steps=1")
    env = {"RAY_memory_usage_threshold": "0.0001", "RAY_memory_monitor_refresh_ms": "50"}
    _, err = runs.sslscale("run", config, "--root", root, "train.num_steps=2", code=4, env=env)
    expected = (
        "error: model: a worker's memory ran out: its batch_size is 40; try 20, or resources.checkpoint_activation"
    )
    assert expected in err and "Traceback" not in err


@contextlib.contextmanager
def limited_memory(name: str, num_bytes: int) -> Iterator[Path]:
    """A control group (v1 or v2) whose processes the kernel kills when they need more; only root may make one."""
    top = Path("/sys/fs/cgroup/memory") if Path("/sys/fs/cgroup/memory").is_dir() else Path("/sys/fs/cgroup")
    group = top / name
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        limits = [group / file for file in ("memory.limit_in_bytes", "memory.max") if (group / file).exists()]
        if not limits:
            pytest.skip("memory is not limited by control groups here")
        limits[0].write_text(str(num_bytes))
        yield group
    finally:
        for _ in range(100):  # Ray's processes end a little after the driver
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)


@pytest.mark.slow
def test_a_worker_that_the_kernel_kills_for_its_memory_is_told_a_smaller_batch(tmp_path: Path) -> None:
    """Driver, Ray and workers share 6 GiB; a batch of 400 needs more, one of 40 does not."""
    config, root = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml"), tmp_path / "runs"
    words = ("run", config, "--root", root, "train.num_steps=2")
    runs.sslscale(*words)
    with limited_memory(f"sslscale-{os.getpid()}", 6 << 30) as group:
        large = (*words, "train.image.size=192", "train.batch_size=400")
        process = runs.start(*large, group=group)
        _, err = process.communicate(timeout=280)
        killed = group / "memory.oom_control"
        killed = killed if killed.exists() else group / "memory.events"
        counts = dict(line.split() for line in killed.read_text().splitlines())
        assert int(counts["oom_kill"]) >= 1
        assert process.returncode == 4, err[-3000:]
        assert "error: model: a worker was killed again and again" in err and "Traceback" not in err
        assert "its batch_size is 400; try 200" in err
        process = runs.start(*words, "train.image.size=192", "train.batch_size=40", group=group)
        _, err = process.communicate(timeout=280)
        assert process.returncode == 0, err[-3000:]


@pytest.mark.timeout(900)
@pytest.mark.slow
@pytest.mark.parametrize(("what", "kills"), [("driver", 10), ("worker", 6), ("node", 4)])
def test_whatever_is_killed_at_random_moments_the_result_is_the_same(what: str, kills: int, tmp_path: Path) -> None:
    workers = ["resources.train.num_workers=2", "resources.score.num_workers=2"] if what != "driver" else []
    found = chaos(tmp_path, what, kills, seed=1, overrides=workers)
    assert found.kills >= kills and found.runs >= 1 and not found.differences
