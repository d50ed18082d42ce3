"""Locks that end with the process that holds them, so that no crash ever needs an `--unlock`."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from sslscale.errors import ResourceError


class Lock:
    """A held lock; `release` it, or use it as a context manager."""

    def __init__(self, fd: int, path: Path):
        self._fd, self.path = fd, path

    def release(self) -> None:
        """Give the lock back. Its file stays; who removes it does so before."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def try_lock(path: Path, note: str | None = None) -> Lock | None:
    """Take the lock at `path`, or return None if a living process has it. `note` is left in it for others to read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(fd), os.stat(path)):
            raise FileNotFoundError  # its last holder removed it between our opening and our locking
    except (BlockingIOError, FileNotFoundError):
        os.close(fd)
        return None
    os.ftruncate(fd, 0)
    os.write(fd, (note or f"{os.getpid()} on {os.uname().nodename}\n").encode())
    return Lock(fd, path)


def held(path: Path, *, wait_s: float) -> Lock:
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
