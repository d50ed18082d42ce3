"""Shards made ready before they are needed, beside the batches that are being made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

from sslscale.errors import UserError


class Prefetch:
    """Calls `make` for shards in the order in which they will be needed, in a thread of its own.

    `want` says which ones these are now: what it named before and has not been begun is dropped. An error ends nothing
    here: it is raised again where the shard is read.
    """

    def __init__(self, make: Callable[[Sequence[int]], None], *, at_once: int):
        self._make, self._at_once = make, at_once
        self._waiting: list[int] = []
        self._begun: set[int] = set()
        self._lock = threading.Lock()
        self._running = self._closed = False

    def want(self, shards: np.ndarray) -> None:
        """Make these shards ready, the first ones first, but for those that it has made ready since they are wanted."""
        with self._lock:
            now = shards.tolist()
            self._begun &= set(now)
            self._waiting = [number for number in reversed(now) if number not in self._begun]
            if self._waiting and not self._running and not self._closed:
                self._running = True
                threading.Thread(target=self._run, name="prefetch").start()

    def _run(self) -> None:
        # not a daemon, which would be cut off amid torch's code when the process ends; but then nothing more is begun
        while True:
            with self._lock:
                if self._closed or not self._waiting or not threading.main_thread().is_alive():
                    self._running = False
                    return
                numbers = [self._waiting.pop() for _ in range(min(self._at_once, len(self._waiting)))]
                self._begun.update(numbers)
            try:
                self._make(numbers)
            except (UserError, OSError):
                continue
            except RuntimeError:  # no new work is taken once the process ends
                if threading.main_thread().is_alive():
                    raise

    def close(self) -> None:
        """Begin nothing more; what is under way ends by itself."""
        with self._lock:
            self._closed = True
