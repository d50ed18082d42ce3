"""What happens while a tracking server is out of reach: calls wait for it, and a root remembers what it lacks."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sslscale.storage import jsonio, locks

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 15.0
_LAST_TRIES_S = 5.0  # when the run has ended
_FULL_OR_BUSY = ("database or disk is full", "database is locked", "disk I/O error")
_BUSY = (429, 500, 502, 503, 504)


class Unreachable(Exception):
    """The server did not answer to the end of the run."""


class PatientClient:
    """An MLflow client whose calls are made again until the server answers; `close` ends that a few seconds later.

    `connect` makes the client, at the first call: importing MLflow takes seconds. `begun` is called at each failure.
    Errors that are not the network's, nor the server's own, are raised.
    """

    def __init__(self, connect: Callable[[], Any], begun: Callable[[], None]):
        self._connect, self._begun = functools.cache(connect), begun
        self._closing, self._until = threading.Event(), float("inf")

    def __getattr__(self, name: str) -> Any:
        def patiently(*values: Any, **named: Any) -> Any:
            wait = _FIRST_WAIT_S
            while True:
                try:
                    return getattr(self._connect(), name)(*values, **named)
                except Exception as error:
                    if not _is_outage(error):
                        raise
                    self._begun()
                    if time.monotonic() > self._until:
                        raise Unreachable from error
                if self._closing.wait(wait):
                    time.sleep(_FIRST_WAIT_S)
                wait = min(2 * wait, _LONGEST_WAIT_S)

        return patiently

    def close(self) -> None:
        """Wait no longer than a few seconds from now."""
        self._until = time.monotonic() + _LAST_TRIES_S
        self._closing.set()


def _is_outage(error: BaseException) -> bool:
    """Whether the same call may succeed later: the network failed, or the server did, or had too much to do."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import ConnectionError, Timeout

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ConnectionError | Timeout):
            return True
        seen = seen.__cause__ or seen.__context__
    text = str(error)
    if any(words in text for words in _FULL_OR_BUSY):  # the root's own database
        return True
    if isinstance(error, MlflowException):
        busy = any(f"error code {code} " in text for code in _BUSY)
        return busy or "failed with exception" in text or "failed with timeout" in text
    return False


def _file(root: Path, run: str) -> Path:
    return root / "unsent" / f"{jsonio.digest(run)}.json"


def hold(root: Path, run: str) -> locks.Lock | None:
    """A lock that shows that the run is alive; None if there is one already, or if no lock can be made."""
    try:
        return locks.try_lock(root / "locks" / f"run-{jsonio.digest(run)}.lock")
    except OSError:
        return None


def note(root: Path, run: str, store: str, parent: str | None, stages: Sequence[str]) -> None:
    """Remember that a store lacks something of a run, which has these keys to make."""
    file = _file(root, run)
    file.parent.mkdir(parents=True, exist_ok=True)
    jsonio.write_json(file, {"run": run, "store": store, "parent": parent, "stages": [*stages]})


def pending(root: Path, run: str, store: str) -> dict[str, Any] | None:
    """What `note` has of a run that the store lacks something of: `parent` is its run there, or None."""
    try:
        found = jsonio.read_json(_file(root, run))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("store") == store else None


def forget(root: Path, run: str) -> None:
    """All was sent."""
    _file(root, run).unlink(missing_ok=True)
