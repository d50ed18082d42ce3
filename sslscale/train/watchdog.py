"""Shows in the log where a worker stands when its training does not go on."""

from __future__ import annotations

import faulthandler
import sys
import time

_RENEW_EVERY_S = 1.0


class Watchdog:
    """While this is entered: writes the stacks of all threads to stderr once no step has ended for `after_s` seconds.

    It needs no thread of Python's own, so it also tells of one that holds the interpreter's lock.
    """

    def __init__(self, after_s: float | None):
        self._after_s, self._renewed = after_s, 0.0

    def __enter__(self) -> Watchdog:
        self.step_ended()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._after_s is not None:
            faulthandler.cancel_dump_traceback_later()

    def step_ended(self) -> None:
        """Wait anew."""
        now = time.monotonic()
        if self._after_s is not None and now - self._renewed > _RENEW_EVERY_S:
            faulthandler.dump_traceback_later(self._after_s, file=sys.__stderr__ or sys.stderr)
            self._renewed = now
