"""A checkpoint behind one HTTP endpoint: Ray Serve, requests gathered into batches."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslscale.cluster.connection import OWN, connect, disconnect
from sslscale.errors import ConfigError

_MOST_CLASSES = 100
_POLL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How a checkpoint is served. Sizes in bytes, times in seconds."""

    port: int
    replicas: int = 1
    gpus: float = 0
    threads: int = 1
    batch_size: int = 32
    wait_s: float = 0.005
    max_bytes: int = 10 << 20
    timeout_s: float = 30.0


class Endpoint:
    """Answers POST with an encoded image as its body, and GET /health."""

    def __init__(self, folder: str, options: ServeOptions):
        from ray import serve

        from sslscale.evaluate.model import Model

        if os.environ.get(OWN) == "1":
            _keep_to_loopback()
        self._model = Model(Path(folder), threads=options.threads)
        self._max_bytes = options.max_bytes
        self._images = self._batches = 0
        self._answer = serve.batch(max_batch_size=options.batch_size, batch_wait_timeout_s=options.wait_s)(self._run)

    async def _run(self, images: list[bytes]) -> list[Any]:
        self._images, self._batches = self._images + len(images), self._batches + 1
        named = bool(self._model.classes)
        return await asyncio.to_thread(self._model.rows, images, probabilities=named)

    async def __call__(self, request: Any) -> Any:
        """Answer a request with JSON."""
        if request.url.path == "/health" and request.method == "GET":
            counts = {"images": self._images, "batches": self._batches}
            return _reply({"status": "ok", "network": self._model.info.model.name, **counts})
        if request.method != "POST" or request.url.path != "/":
            return _reply({"error": "POST an image to /, or GET /health"}, 404)
        try:
            top = min(max(int(request.query_params.get("top", 1)), 1), _MOST_CLASSES)
        except ValueError:
            return _reply({"error": f"top: {request.query_params['top']!r} is not a number"}, 400)
        data = bytearray()
        async for part in request.stream():
            data += part
            if len(data) > self._max_bytes:
                return _reply({"error": f"the image is larger than {self._max_bytes:,} bytes"}, 413)
        row = await self._answer(bytes(data))
        if isinstance(row, str):
            return _reply({"error": row}, 400)
        if not self._model.classes:
            return _reply({"features": row.tolist()})
        found = [{"class": name, "probability": share} for name, share in self._model.named(row, top)]
        return _reply({"predictions": found})


def _keep_to_loopback() -> None:
    """Let this replica listen on the loopback alone; called before it starts to listen.

    Ray Serve's replicas unpickle what they are sent, from any address and without the cluster's token, and have no
    option for that.
    """
    replica: Any = importlib.import_module("ray.serve._private.replica")
    listen = replica.add_port_to_grpc_server

    def on_loopback(server: Any, address: str) -> int:
        return listen(server, address.replace("[::]", "127.0.0.1"))

    replica.add_port_to_grpc_server = on_loopback


def _reply(answer: dict[str, Any], status: int = 200) -> Any:
    from starlette.responses import Response

    return Response(json.dumps(answer), status_code=status, media_type="application/json")


def serve_checkpoint(folder: Path, options: ServeOptions, say: Callable[[str], None]) -> None:
    """Serve a checkpoint on this machine's loopback until interrupted; raises ConfigError without Ray Serve."""
    ray = connect()
    try:
        try:
            from ray import serve
        except ImportError:
            raise ConfigError("serving needs Ray Serve: pip install 'sslscale[serve]'") from None
        serve.start(http_options={"host": "127.0.0.1", "port": options.port, "request_timeout_s": options.timeout_s})
        deployment: Any = serve.deployment(Endpoint)
        endpoint = deployment.options(
            num_replicas=options.replicas,
            max_ongoing_requests=4 * options.batch_size,
            max_queued_requests=64 * options.batch_size,
            ray_actor_options={"num_cpus": options.threads, "num_gpus": options.gpus},
        )
        serve.run(endpoint.bind(str(folder.absolute()), options), name="sslscale", route_prefix="/")
        say(f"http://127.0.0.1:{options.port}  (stop with Ctrl-C)")
        while ray.is_initialized():
            time.sleep(_POLL_S)
    finally:
        disconnect()
