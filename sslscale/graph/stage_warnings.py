"""Warnings of a stage: its workers append them to a file of the artifact, and the driver shows them as they come."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

FILE = "warnings.log"


class _Lossy(logging.FileHandler):
    """A warning that cannot be written, as the disk is full, is not an error: it is in the stage's log."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # opened at the first warning, where logging catches nothing
            super().emit(record)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be written is tried once more
            super().close()


@contextlib.contextmanager
def collect_warnings(folder: Path) -> Iterator[None]:
    """Append what sslscale's loggers warn of to the file of a stage, and write it to stderr, which is its log."""
    logger = logging.getLogger("sslscale")
    handlers = [_Lossy(folder / FILE, encoding="utf-8", delay=True), logging.StreamHandler()]
    for handler in handlers:
        handler.setLevel(logging.WARNING)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


class Warnings:
    """The lines that a stage's file gets from now on, each once: workers often warn of one thing together."""

    def __init__(self, folder: Path):
        self._file = folder / FILE
        self._place = self._file.stat().st_size if self._file.exists() else 0
        self._known: set[str] = set()

    def new(self) -> list[str]:
        """The whole lines since the last call."""
        try:
            with open(self._file, "rb") as file:
                file.seek(self._place)
                text = file.read()
        except OSError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._place += len(whole)
        lines = dict.fromkeys(whole.decode("utf-8", "replace").splitlines())
        found = [line for line in lines if line not in self._known]
        self._known.update(found)
        return found
