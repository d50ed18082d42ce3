"""SIGTERM, as schedulers and clouds send it before they take a machine, ends a command as Ctrl-C does."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Terminable:
    """While this is entered, the first SIGTERM interrupts the main thread; a second one ends the process at once."""

    def __init__(self) -> None:
        self.terminated = self._set = False

    def __enter__(self) -> Terminable:
        main = threading.current_thread() is threading.main_thread()
        self._set = main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        if self._set:
            signal.signal(signal.SIGTERM, self._interrupt)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._set:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.terminated = True
        raise KeyboardInterrupt


@contextlib.contextmanager
def sigterm_blocked() -> Iterator[None]:
    """Let SIGTERM wait. Threads that are started meanwhile never take it, which leaves it to the main thread."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
