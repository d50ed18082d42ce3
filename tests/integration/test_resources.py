"""Workers, GPUs and nodes: what a stage asks for, what it is told where that is not there, and how it waits."""

from __future__ import annotations

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
