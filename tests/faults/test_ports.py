"""While a run lasts, nobody without its secret can talk to Ray: its ports are on the loopback, and ask for a token."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import grpc
import psutil
import pytest

from tests import runs

# a harmless question that each kind of Ray's servers answers
QUESTIONS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.ReporterService/GetTraceback",
)


def ask(port: int, question: str, token: str | None = None) -> grpc.StatusCode:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        secret = (("authorization", f"Bearer {token}"),) if token else None
        try:
            channel.unary_unary(question)(b"", timeout=5, metadata=secret)
            return grpc.StatusCode.OK
        except grpc.RpcError as error:
            return error.code()  # pyright: ignore[reportAttributeAccessIssue]


def listening_ports(driver: psutil.Process) -> dict[int, tuple[str, str]]:
    """The address and the process of each port that a run listens on."""
    listening = {}
    for one in (driver, *driver.children(recursive=True)):
        for found in one.net_connections(kind="tcp"):
            if found.status == psutil.CONN_LISTEN:
                listening[found.laddr.port] = (found.laddr.ip.removeprefix("::ffff:"), one.name())
    return listening


@pytest.mark.slow
def test_where_two_workers_meet_is_on_the_loopback(tmp_path: Path) -> None:
    """torch's store and gloo's ports as well as Ray's."""
    config = runs.write(tmp_path, runs.SHORT_CONFIG.replace("num_steps: 400", "num_steps: 100000"), "short.yaml")
    root = tmp_path / "runs"
    process = runs.start("run", config, "resources.num_workers=2", "train.sync_batch_norm=true", "--root", root)
    try:
        runs.wait_until(lambda: bool(list(root.glob("artifacts/train/*/metrics.jsonl"))), process, 200)
        listening = listening_ports(psutil.Process(process.pid))
        assert {ip for ip, _ in listening.values()} == {"127.0.0.1"}, listening
        workers = [name for _, name in listening.values() if "RayTrainWorker" in name]
        assert len(workers) > 4, listening  # Ray's two of each, the store, the pairs of gloo
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=200)


def test_rays_ports_are_on_the_loopback_and_ask_for_the_runs_token(tmp_path: Path) -> None:
    config = runs.write(tmp_path, runs.SHORT_CONFIG.replace("num_steps: 400", "num_steps: 100000"), "short.yaml")
    root = tmp_path / "runs"
    process = runs.start("run", config, "--root", root)
    try:
        deadline = time.monotonic() + 120
        while not list(root.glob("artifacts/train/*/metrics.jsonl")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        driver = psutil.Process(process.pid)
        tree = [driver, *driver.children(recursive=True)]
        listening = listening_ports(driver)
        assert {ip for ip, _ in listening.values()} == {"127.0.0.1"}, listening
        secret = next(Path(one.environ()["RAY_AUTH_TOKEN_PATH"]) for one in tree if "raylet" in one.name())
        assert secret.stat().st_mode & 0o777 == 0o600
        token = secret.read_text()
        answered = {
            question: [port for port in listening if ask(port, question, token) == grpc.StatusCode.OK]
            for question in QUESTIONS
        }
        assert all(answered.values()), answered  # each kind of server is there, and answers who has the token
        for question, ports in answered.items():
            for port in ports:
                assert ask(port, question) == grpc.StatusCode.UNAUTHENTICATED
                assert ask(port, question, "0" * 64) == grpc.StatusCode.UNAUTHENTICATED
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=200)
    assert token not in "".join(f.read_text(errors="replace") for f in root.rglob("*") if f.is_file())
    assert not secret.exists()
