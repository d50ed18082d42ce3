"""A proxy before an HTTP server that answers some requests with 503, late, or in part, as drawn from a seed."""

from __future__ import annotations

import contextlib
import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_LATE_S = 1.0


class BadNetwork(ThreadingHTTPServer):
    """`odds` are those of each fault; `counts` says how often each happened."""

    daemon_threads = True

    def __init__(self, target: str, odds: dict[str, float], seed: int = 0):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.odds = target, odds
        self.counts: Counter[str] = Counter()
        self._choice, self._lock = random.Random(seed), threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def draw(self) -> str:
        """What happens to the next request."""
        with self._lock:
            place, found = self._choice.random(), "none"
            for name, odds in self.odds.items():
                if place < odds:
                    found = name
                    break
                place -= odds
            self.counts[found] += 1
            return found

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no news here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: BadNetwork  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def _pass_on(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = self._chunks()
        fault = self.server.draw()
        if fault == "503":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "late":
            time.sleep(_LATE_S)
        connection = http.client.HTTPConnection(self.server.target, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "server", "date"):
                self.send_header(name, value)
        size = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", size or "0")
        self.end_headers()
        if self.command != "HEAD":
            cut = fault == "cut" and len(data) > 1
            self.wfile.write(data[: len(data) // 2] if cut else data)
            self.close_connection = cut

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return found

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on


@contextlib.contextmanager
def bad_network(target: str, odds: dict[str, float], seed: int = 0) -> Iterator[BadNetwork]:
    """The proxy, while it is served."""
    with BadNetwork(target, odds, seed) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
