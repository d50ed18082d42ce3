"""Workers, GPUs and nodes: what a stage asks for, what it is told where that is not there, and how it waits."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sslscale.cluster.workers import gpus_per_worker, threads_per_worker
from sslscale.errors import ConfigError
from sslscale.graph.resources import Resources
from tests import runs


def test_a_worker_has_a_gpu_where_there_are_any_and_none_where_none_was_asked_for() -> None:
    assert [gpus_per_worker(None, available) for available in (0, 1, 2, 8)] == [0, 1, 1, 1]
    assert gpus_per_worker(0, 8) == 0 and gpus_per_worker(0.5, 1) == 0.5
    for name, value in (("gpus_per_worker", -1), ("cpus_per_worker", 0), ("wait_for_nodes_s", -1)):
        with pytest.raises(ValueError, match=name):
            Resources(**{name: value})  # pyright: ignore[reportArgumentType]


def test_threads_are_a_share_of_the_node_and_not_of_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 96)
    assert threads_per_worker(None, 8) == 12  # eight GPUs of one node of eight, 64 workers in all
    assert threads_per_worker(None, 1) == 96 and threads_per_worker(None, 200) == 1
    assert threads_per_worker(5, 8) == 5


def test_a_stage_that_asks_for_no_gpu_sees_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from sslscale.train.engine import best_device

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 3)
    assert best_device(Resources()) == torch.device("cuda", 3)
    assert best_device(Resources(gpus_per_worker=0)) == torch.device("cpu")


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Any, str]]:
    """A head that computes nothing, as the shipped clusters have one."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield made, str(made.address)
    made.shutdown()


@pytest.mark.slow
def test_a_stage_waits_for_nodes_that_come_and_says_so(cluster: tuple, tmp_path: Path) -> None:
    made, address = cluster
    config = runs.write(tmp_path, runs.SHORT_CONFIG.replace("num_steps: 400", "num_steps: 20"), "short.yaml")
    process = runs.start("run", config, "--root", tmp_path / "runs", env={"RAY_ADDRESS": address})
    log = tmp_path / "runs" / "artifacts" / "pack"
    deadline = time.monotonic() + 60
    while not list(log.glob("*/warnings.log")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    made.add_node(num_cpus=2)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "data: waiting for nodes: data: 1 workers of 1 CPUs are more than the 0 CPUs there are" in out
    assert "gives up after 900 s (resources.wait_for_nodes_s)" in out and "model/evaluate" in out


@pytest.fixture
def autoscaled(tmp_path: Path) -> Iterator[str]:
    """Ray's autoscaler, whose nodes are processes of this machine: none at first, as with KubeRay's minReplicas 0."""
    import psutil

    def kind(cpus: int, most: int) -> dict[str, Any]:
        return {"resources": {"CPU": cpus}, "node_config": {}, "min_workers": 0, "max_workers": most}

    provider = {"type": "fake_multinode", "use_node_id_as_ip": True, "disable_node_updaters": True}
    config = {
        "cluster_name": "fake",
        "max_workers": 2,
        "provider": {**provider, "disable_launch_config_check": True},
        "available_node_types": {"ray.head.default": kind(0, 0), "cpu": kind(1, 2)},
        "head_node_type": "ray.head.default",
        "idle_timeout_minutes": 10,
        "upscaling_speed": 1.0,
        **{name: {} for name in ("auth", "file_mounts")},
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands")},
        **{f"{who}setup_commands": [] for who in ("", "head_", "worker_")},
        **{f"{who}_start_ray_commands": [] for who in ("head", "worker")},
        "file_mounts_sync_continuously": False,
    }
    (tmp_path / "fake.yaml").write_text(json.dumps(config))
    command = ["ray", "start", "--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false", "--block"]
    command.append(f"--autoscaling-config={tmp_path / 'fake.yaml'}")
    env = {**os.environ, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_AUTH_MODE": "disabled"}
    head = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert head.stdout is not None
    for line in head.stdout:
        if "--block" in line:
            break
    yield "127.0.0.1:6379"  # where the fake nodes look for their head
    family = psutil.Process(head.pid).children(recursive=True)
    for process in (psutil.Process(head.pid), *family):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    head.wait(30)


@pytest.mark.slow
def test_an_autoscaler_brings_the_nodes_that_a_stage_waits_for(autoscaled: str, tmp_path: Path) -> None:
    config = runs.write(tmp_path, runs.SHORT_CONFIG.replace("num_steps: 400", "num_steps: 20"), "short.yaml")
    two = ("resources.num_workers=2", "resources.cpus_per_worker=1")
    env = {"RAY_ADDRESS": autoscaled, "RAY_AUTH_MODE": "disabled"}
    _, err = runs.sslscale("run", config, "--root", tmp_path / "runs", *two, env=env, code=2)
    assert "no GPU now, and its autoscaler may bring some: set gpus_per_worker" in err
    two = (*two, "resources.gpus_per_worker=0")
    out, _ = runs.sslscale("run", config, "--root", tmp_path / "runs", *two, env=env)
    assert "data: waiting for nodes" in out and "model: ran in" in out and "model/evaluate" in out


@pytest.mark.slow
def test_a_users_error_is_raised_at_once_and_not_retried(tmp_path: Path, digits: Path) -> None:
    """One of two workers meets a damaged shard while the other trains."""
    shutil.copytree(digits, tmp_path / "data")
    shard = tmp_path / "data" / "labeled" / "labeled-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-700])
    config = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml")
    words = (config, "--root", tmp_path / "runs", f"data={{source: {tmp_path / 'data'}}}", "resources.num_workers=2")
    # what is decoded already, by another test, is read by the checksum of the shard that it was decoded from
    _, err = runs.sslscale("run", *words, code=3, env={"SSLSCALE_SCRATCH": str(tmp_path / "scratch")})
    assert "labeled-000000.tar" in err and "but its index says" in err
    assert len(list((tmp_path / "runs" / "ray").iterdir())) == 1  # attempts


@pytest.mark.slow
def test_too_few_gpus_are_an_error_with_both_numbers(cluster: tuple, tmp_path: Path) -> None:
    made, address = cluster
    node = made.add_node(num_cpus=4, num_gpus=2)  # GPUs that are only said to be there: no worker starts on them
    try:
        words = (runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml"), "--root", tmp_path / "runs")
        four = ("resources.num_workers=4", "resources.wait_for_nodes_s=1")
        _, err = runs.sslscale("run", *words, *four, code=4, env={"RAY_ADDRESS": address})
        assert "model: 4 workers of 1 GPUs are more than the 2 GPUs there are; set num_workers to 2 at most" in err
        assert "no node came in 1 s (wait_for_nodes_s)" in err
        half = ("resources.num_workers=2", "resources.gpus_per_worker=0.5")
        _, err = runs.sslscale("run", *words, *half, code=2, env={"RAY_ADDRESS": address})
        assert "workers that train together need a whole GPU each, or 0" in err
    finally:
        made.remove_node(node)


def test_impossible_resources_are_configuration_errors(tmp_path: Path) -> None:
    from sslscale import experiment

    config = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml")
    with pytest.raises(ConfigError, match=r"resources\.gpus_per_worker: must be 0 or more"):
        experiment.load(str(config), ["resources.gpus_per_worker=-1"])
