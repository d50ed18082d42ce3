"""MLflow's server goes away and comes back: nothing is lost there, and nothing is there twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import runs

pytestmark = pytest.mark.slow


class Server:
    """MLflow's server over a folder, on a port of its own."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, runs.free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.env = {"MLFLOW_TRACKING_URI": self.uri}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        words = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        words += [
            "--backend-store-uri",
            f"sqlite:///{self.folder}/mlflow.db",
            "--artifacts-destination",
            str(self.folder),
        ]
        quiet: Any = subprocess.DEVNULL
        self._process = subprocess.Popen([sys.executable, *words], stdout=quiet, stderr=quiet, start_new_session=True)
        runs.wait_for_port(self.port)

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def tracked(server: Server) -> dict[str, Any]:
    """What the server has: runs by their names."""
    from mlflow import MlflowClient

    client = MlflowClient(server.uri)
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert len({run.info.run_name for run in found}) == len(found), "a run is there twice"
    return {str(run.info.run_name).split()[0]: (client, run) for run in found}


def require_all(server: Server, root: Path, found: dict[str, Any]) -> None:
    """Every row of the training's log is there once, and every run has ended."""
    there = tracked(server)
    assert there.keys() == {"short", "data", "model", "model/evaluate", "model/weigh"}
    assert {run.info.status for _, run in there.values()} == {"FINISHED"}
    client, run = there["model"]
    rows = runs.rows(runs.folder_of(root, found, "model"))
    for name in ("loss", "lr"):
        sent = sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, name))
        assert sent == [(row["step"], row[name]) for row in rows]
    assert there["model/weigh"][1].data.metrics["weights"] == 20.794
    assert "model/test_accuracy" in there["short"][1].data.metrics
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"model", "views.png"} <= names


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that runs when the test begins, and none after it."""
    found = Server(tmp_path / "mlflow")
    found.start()
    yield found
    found.stop()


def logged(root: Path) -> int:
    """How many rows the training has logged."""
    return sum(len(runs.rows(file.parent)) for file in root.glob("artifacts/train/*/metrics.jsonl"))


def test_a_server_that_stops_and_comes_back_misses_nothing(server: Server, tmp_path: Path) -> None:
    config, root = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml"), tmp_path / "runs"
    words = ("run", config, "train.num_steps=3000", "--root", root, "--json")
    process = runs.start(*words, env=server.env)
    runs.wait_until(lambda: logged(root) > 20, process)
    server.stop()
    runs.wait_until(lambda: logged(root) > 150, process)
    server.start()
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0 and "warning: tracking" not in err, err
    require_all(server, root, runs.result(out))
    assert not list(root.glob("unsent/*"))


def test_what_a_run_could_not_send_the_same_command_sends(server: Server, tmp_path: Path) -> None:
    config, root, env = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml"), tmp_path / "runs", server.env
    words = ("run", config, "--root", root, "--json")
    process = runs.start(*words, env=env)
    runs.wait_until(lambda: logged(root) > 5, process)
    server.stop()
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert err.count(f"warning: tracking at {server.uri} does not answer: the same command sends it") == 1
    server.start()
    again, err = runs.sslscale(*words, env=env)
    assert {stage["state"] for stage in runs.result(again)["stages"]} == {"cached"} and "warning" not in err
    require_all(server, root, runs.result(out))
    assert not list(root.glob("unsent/*"))
