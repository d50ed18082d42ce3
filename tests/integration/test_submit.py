"""Jobs on a real Ray head: handed over, followed, stopped, gone on with; and what is said when that cannot be."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import runs


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str], int]]:
    """A head with a dashboard that asks for a token; its address, the environment of its clients, Ray's own port."""
    folder = tmp_path_factory.mktemp("head")
    token, port, own = folder / "token", runs.free_port(), runs.free_port()
    token.write_text("a-token-of-thirty-two-characters")
    token.chmod(0o600)
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    words = ["start", "--head", "--block", "--num-cpus=2", "--num-gpus=0", f"--port={own}"]
    words += [f"--dashboard-port={port}", "--include-dashboard=true", "--disable-usage-stats"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *words],
        env={**os.environ, **auth, "RAY_worker_niceness": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 90
        while True:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None and time.monotonic() < deadline, "the head did not start"
            time.sleep(0.3)
        time.sleep(2)  # the job server begins to answer a moment later
        yield f"http://127.0.0.1:{port}", auth, own
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


@pytest.fixture
def head(cluster: tuple[str, dict[str, str], int]) -> tuple[str, dict[str, str]]:
    """The head's address, and the environment of its clients."""
    return cluster[:2]


@pytest.mark.slow
def test_a_job_is_stopped_and_goes_on_as_another(head: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, auth = head
    config, root = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml"), tmp_path / "root"
    at = ("--address", address)
    out, _ = runs.sslscale("submit", config, "train.save_every=5", "--root", root, *at, env=auth)
    job = out.split()[1]
    deadline = time.monotonic() + 150
    while not list(root.glob("artifacts/train/*/state/step-*/commit.json")):
        assert time.monotonic() < deadline, runs.sslscale("jobs", *at, "--json", env=auth)[0]
        time.sleep(0.05)
    assert "stopped" in runs.sslscale("stop", job, *at, env=auth)[0]
    assert not list(root.glob("artifacts/train/*/record.json"))

    out, _ = runs.sslscale("submit", config, "train.save_every=5", "--root", root, *at, "--follow", env=auth)
    assert "data: cached" in out and "4 of 4 stages" not in out and "succeeded" in out
    assert "going on from step" in "".join(p.read_text() for p in root.glob("logs/*/model.log"))
    lines = runs.sslscale("jobs", *at, env=auth)[0]
    assert job in lines and "stopped" in lines and "succeeded" in lines


@pytest.mark.slow
def test_a_cluster_without_the_gpus_says_what_it_has(head: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, auth = head
    config = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml")
    words = ("submit", config, "--root", tmp_path / "root", "--address", address)
    asked = ("resources.gpus_per_worker=1", "resources.wait_for_nodes_s=2")
    out, _ = runs.sslscale(*words, *asked, "--follow", code=4, env=auth)
    assert "model: 1 workers of 1 GPUs are more than the 0 GPUs there are" in out


def test_submission_errors_are_one_line(head: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, auth = head
    config = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml")
    nobody = f"http://127.0.0.1:{runs.free_port()}"
    _, err = runs.sslscale("submit", config, "--root", tmp_path, "--address", nobody, code=4, env=auth)
    assert "no Ray dashboard answers there" in err and err.count("\n") == 1
    _, err = runs.sslscale(
        "submit", config, "train.speed=1", "--root", tmp_path, "--address", address, code=2, env=auth
    )
    assert "train.speed" in err
    _, err = runs.sslscale("submit", config, "--root", "runs", "--address", address, code=2, env=auth)
    assert "--root runs: must be a path or URL that every node" in err
    wrong = tmp_path / "token"
    wrong.write_text("another-token-of-thirty-two-char")
    wrong.chmod(0o600)
    _, err = runs.sslscale("jobs", "--address", address, code=4, env={**auth, "RAY_AUTH_TOKEN_PATH": str(wrong)})
    assert "the cluster asks for its token" in err
    _, err = runs.sslscale("stop", "nothing", "--address", address, code=2, env=auth)
    assert "has no job nothing" in err


def test_a_cluster_of_another_version_is_named(cluster: tuple[str, dict[str, str], int], tmp_path: Path) -> None:
    _, auth, port = cluster
    config = runs.write(tmp_path, runs.SHORT_CONFIG, "short.yaml")
    code = (
        "import sys, ray; ray.__version__ = '2.58.0'; from sslscale.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(config), "--root", str(tmp_path / "root")],
        env={**os.environ, **auth, "RAY_ADDRESS": f"127.0.0.1:{port}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 4 and last.startswith(f"error: RAY_ADDRESS 127.0.0.1:{port}: Version mismatch"), last
    assert "Ray: 2.58.0" in last and "Install the same Ray" in last and "Traceback" not in done.stderr
