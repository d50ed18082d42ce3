"""Locks that end with the process that holds them, so that no crash ever needs an `--unlock`."""

from __future__ import annotations

import os
import time
from pathlib import Path

from sslscale.errors import ResourceError


class Lock:
    """A held lock; `release` it, or use it as a context manager."""

    def __init__(self, lock: object, path: Path):
        self._lock, self.path = lock, path

    def release(self) -> None:
        """Release the lock. Its file stays; remove it before releasing."""
        self._lock.release()  # pyright: ignore[reportAttributeAccessIssue]

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def try_lock(path: Path, note: str | None = None) -> Lock | None:
    """Take the lock at `path`, or return None if a living process has it. `note` is left in it for others to read."""
    import filelock

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path, blocking=False, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        return None
    try:
        path.write_text(note or f"{os.getpid()} on {os.uname().nodename}\n", "utf-8")
    except OSError:
        if note is not None:
            lock.release()
            raise
        # the disk is full: a lock that does not say who holds it is one still
    return Lock(lock, path)


def acquire(path: Path, *, wait_s: float) -> Lock:
    """Take the lock at `path`, waiting up to `wait_s` seconds; raises ResourceError that names the holder."""
    deadline = time.monotonic() + wait_s
    while True:
        lock = try_lock(path)
        if lock is not None:
            return lock
        if time.monotonic() > deadline:
            holder = path.read_text("utf-8").strip() or "an unknown process"
            raise ResourceError(f"{path.parent}: process {holder} is still writing there; stop it, then run again")
        time.sleep(0.1)
