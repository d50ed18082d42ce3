"""A checkpoint behind HTTP gives what `predict` gives; bad requests are refused in one line each."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import psutil
import pytest

from sslscale.data.samples import open_samples
from sslscale.evaluate.model import Model
from tests import runs
from tests.finished import Finished

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Server:
    port: int
    pid: int
    finished: Finished

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, dict]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.fixture(scope="module")
def server(finished: Finished) -> Iterator[Server]:
    pytest.importorskip("grpc_reflection")
    port = runs.free_port()
    process = runs.start("serve", "student_1", "--root", finished.root, "--port", str(port), "--max-mb", "1")
    assert process.stdout is not None
    said = [process.stdout.readline(), process.stdout.readline()]
    assert f"http://127.0.0.1:{port}" in said[1], process.communicate()
    yield Server(port, process.pid, finished)
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "stopped" in out


def test_answers_are_those_of_the_model_and_requests_are_gathered(server: Server) -> None:
    samples = open_samples(server.finished.folder("data") / "test")
    images = [bytes(samples.shards[0].encoded(row)) for row in range(20)]
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda image: server.ask("POST", "/?top=2", image), images))
    model = Model(server.finished.folder("student_1"))
    for (status, answer), row in zip(found, model.rows(images, probabilities=True), strict=True):
        expected = model.named(np.asarray(row), 2)
        assert status == 200
        assert [p["class"] for p in answer["predictions"]] == [name for name, _ in expected]
        shares = [p["probability"] for p in answer["predictions"]]
        np.testing.assert_allclose(shares, [share for _, share in expected], rtol=1e-4)
    status, health = server.ask("GET", "/health")
    assert status == 200 and health["status"] == "ok"
    assert health["images"] >= 20 > health["batches"]


def test_bad_requests_are_refused(server: Server) -> None:
    assert server.ask("POST", "/", b"no image") == (400, {"error": "undecodable image (of no known format)"})
    assert server.ask("POST", "/", bytes(1_000_001))[0] == 413
    assert server.ask("POST", "/?top=many", b"x")[0] == 400
    assert server.ask("GET", "/")[0] == server.ask("POST", "/other", b"x")[0] == 404


def test_nothing_listens_beyond_the_loopback(server: Server) -> None:
    listening = {}
    for process in [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]:
        for found in process.net_connections(kind="inet"):
            if found.status == psutil.CONN_LISTEN:
                listening[found.laddr.port] = (found.laddr.ip, process.name())
    assert {ip.removeprefix("::ffff:") for ip, _ in listening.values()} == {"127.0.0.1"}, listening
