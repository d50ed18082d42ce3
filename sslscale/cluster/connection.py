"""Join a Ray cluster, or start a private one that nobody else can reach."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sslscale.errors import ResourceError
from sslscale.interrupts import sigterm_blocked

# Set before ray is imported, in the driver; workers inherit them.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run`, Ray would resolve the environment again in each worker
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_task_oom_retries": "2",  # Ray's own is to try for ever
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


def connect() -> Any:
    """Join the cluster that RAY_ADDRESS names, or start one of this run alone; returns the module ray.

    Ray's ports run whatever they are sent. Those of a cluster of its own are on the loopback, and answer those alone
    who have its token, which this user alone can read.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if os.environ.get("RAY_ADDRESS") is None:
        _require_token()
    import ray

    _read_environment()
    from ray._private import worker

    worker.print_to_stdstream = _tell

    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if os.environ.get("RAY_ADDRESS") is None:  # a bare init would join any cluster that happens to run here
        options |= {"address": "local", "include_dashboard": False, "object_store_memory": 256 << 20}
        # Ray's own 15 leaves a run a thirtieth of a core beside any other busy process; `nice sslscale` still works
        os.environ.setdefault("RAY_worker_niceness", "0")
        # OpenMP's threads wait for each other spinning: beside one busy process 400 small steps took over 130 s, with
        # fewer turns 19 s; alone 6.4 and 7.1 s
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        _require_answer(os.environ.get("RAY_ADDRESS", ""))
        with _own_sigterm(), _chosen_ports() if "address" in options else contextlib.nullcontext():
            ray.init(**options)
    except OSError as error:  # ConnectionError is one
        text = str(error).splitlines()[0]
        if (where := os.environ.get("RAY_ADDRESS")) is None:
            raise ResourceError(f"Ray could not be started on this machine: {text}") from None
        raise ResourceError(
            f"RAY_ADDRESS {where}: no cluster answers there ({text}); mend it, or unset it to run on this machine alone"
        ) from None
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if "Version mismatch" not in text:
            raise
        where = os.environ.get("RAY_ADDRESS")
        raise ResourceError(f"RAY_ADDRESS {where}: {text} Install the same Ray and Python on both sides") from None
    except Exception as error:  # Ray raises this very class
        if "timed out during startup" not in str(error):
            raise
        raise ResourceError(
            "Ray did not start within 30 s: other processes use all cores, or memory is short; run again when they "
            f"have ended (Ray's own logs: {Path(tempfile.gettempdir(), 'ray/session_latest/logs')})"
        ) from None
    return ray


def _tell(data: dict[str, Any], *_: Any, **__: Any) -> None:
    """Print what Ray tells the driver in one line each; of a process that died it would print several paragraphs."""
    text = " ".join(" ".join(str(line) for line in data.get("lines", ())).split())
    if left := re.search(r"There are (\d+) retries remaining", text):
        print(f"a process of a stage died; Ray starts it again ({left[1]} retries left)", flush=True)
    elif not text.startswith("A worker died or was killed"):  # which the line above, or the stage's error, says
        print(f"Ray: {text}", flush=True)


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Let SIGTERM wait while Ray starts, and keep this process's handler of it.

    Ray sets one in Python before it starts, which exits with code 15, and one in C++ when it connects, which aborts:
    either would end the process before a training is asked to save. The threads that Ray starts never take the signal;
    the processes that it starts do.
    """
    from ray._private import utils

    handler = signal.getsignal(signal.SIGTERM)
    if handler is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    if sys.platform != "linux":  # there the processes that Ray starts would not take the signal either
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, handler)
        return
    set_handler, die_with_parent = utils.set_sigterm_handler, utils.set_kill_on_parent_death_linux

    def in_a_new_process() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        die_with_parent()

    utils.set_sigterm_handler = lambda handler: None
    utils.set_kill_on_parent_death_linux = in_a_new_process
    try:
        with sigterm_blocked():
            try:
                yield
            finally:
                signal.signal(signal.SIGTERM, handler)
    finally:
        utils.set_sigterm_handler, utils.set_kill_on_parent_death_linux = set_handler, die_with_parent


_AGENTS = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", "dashboard_agent_listen_port")


@contextlib.contextmanager
def _chosen_ports() -> Iterator[None]:
    """Give the agents of a cluster of this run's own their ports.

    Otherwise Ray's node waits until they have imported all they need and said which ports they took, and gives up after
    15 s, which a busy machine exceeds.
    """
    from ray._private import parameter

    plain = parameter.RayParams

    def params(*args: Any, **options: Any) -> Any:
        return plain(*args, **(options | dict(zip(_AGENTS, _free_ports(len(_AGENTS)), strict=True))))

    parameter.RayParams = params  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        parameter.RayParams = plain


def _free_ports(count: int) -> list[int]:
    """Ports of the loopback below those that the system gives to connections, so that none takes them meanwhile."""
    ports: set[int] = set()
    while len(ports) < count:
        port = 20_000 + secrets.randbelow(12_000)
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            ports.add(port)
    return sorted(ports)


_saved: dict[str, str | None] = {}  # variables as they were before a cluster of this process's own
OWN = "SSLSCALEOWN_CLUSTER"  # 1 in all processes of a cluster of a run's own: no node joins it
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # 0: Ray's address of this machine is 127.0.0.1, on Linux too


def _require_token() -> None:
    """Set what Ray reads when it starts a cluster: its address, and a secret of this run's own."""
    folder = Path(tempfile.mkdtemp(prefix="sslscale-ray-"))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    own: dict[str, str | None] = {OWN: "1", _LOOPBACK: "0", "RAY_AUTH_MODE": "token"}
    own |= {"RAY_AUTH_TOKEN_PATH": str(token), "RAY_AUTH_TOKEN": None}
    if sys.platform == "linux":
        own["GLOO_SOCKET_IFNAME"] = "lo"
    for name, value in own.items():
        _saved.setdefault(name, os.environ.get(name))
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def _read_environment() -> None:
    """Make Ray see these variables in a process that had imported it before they were set."""
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

    ray_constants.ENABLE_RAY_CLUSTER = os.environ.get(_LOOPBACK, "1").lower() not in ("0", "false")
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def disconnect() -> None:
    """Leave the cluster, and stop it if it is this process's own."""
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    with sigterm_blocked():
        try:
            ray.shutdown()
        finally:
            if handler is not None and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # Ray has set the system's, which ends the process
    for name, value in _saved.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    _saved.clear()
    _read_environment()


def _require_answer(address: str) -> None:
    """Raise OSError if HOST:PORT takes no connection, which Ray would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()
