"""Sums of an artifact's files: taken when it is finished, checked when another stage reads one of them.

sums.json has the SHA-256 of every file, and the record has the one of sums.json. Shards (.tar) are left out: their sums
stand in index.json. A byte that flips on a disk is an error that names the file, and never another result.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from sslscale.errors import DataError
from sslscale.storage import jsonio

FILE = "sums.json"
RECORD = "record.json"
_OWN = {FILE, RECORD, "stage.json", "writer.lock", "progress.json", "progress.tmp", "mlflow.json", "warnings.log"}
_LINKED = (
    "index.json",
    "labels.npy",
    "rows.npy",
    "hidden_labels.npy",
)  # of a folder of shards that an artifact refers to
_BY_SHARD = re.compile(r"-\d{6,}\.\w+")
_DEPTH = 3  # folders from an artifact down to its files
_known: set[tuple[str, int, int, int, str]] = set()


class DamagedRecord(DataError, ValueError):
    """A record that is not what was written; `reason` says why."""

    def __init__(self, file: Path, reason: str):
        super().__init__(f"{file}: unreadable ({reason}); remove the folder to redo it")
        self.reason = reason

    def __reduce__(self) -> Any:
        return DataError, (str(self),)


def take(folder: Path) -> str:
    """Write sums.json of a finished artifact; returns the sum of that file, which the record keeps."""
    files: dict[str, str] = {}
    for parent, folders, names in os.walk(folder):
        for name in folders:
            if os.path.islink(place := os.path.join(parent, name)):
                files |= {f"{name}/{n}": sha256(Path(place, n)) for n in _LINKED if os.path.isfile(f"{place}/{n}")}
        for name in names:
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            if relative not in _OWN and not name.endswith(".tar") and not name.startswith(".") and ".tmp-" not in name:
                files[relative] = sha256(path)
    jsonio.write_json(folder / FILE, dict(sorted(files.items())))
    return sha256(folder / FILE)


def require_whole(folder: Path) -> None:
    """Check all files of an artifact but those that there is one of for each shard, which are checked as they are read.

    Raises DataError naming the file that has changed or is gone.
    """
    for name in _sums(folder):
        if not _BY_SHARD.search(name):
            checked(folder / name)


def checked(file: Path) -> Path:
    """`file`, after a look at its sum if it lies in a finished artifact; raises DataError if it has changed.

    A file is read once for it in each process.
    """
    for folder in list(file.parents)[:_DEPTH]:
        if (folder / RECORD).is_file():
            expected = _sums(folder).get(file.relative_to(folder).as_posix())
            if expected is not None:
                _require(file, expected, folder)
            break
    return file


def sha256(file: Path) -> str:
    """The SHA-256 of a file's content."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _require(file: Path, expected: str, folder: Path) -> None:
    try:
        stat = file.stat()
        stamp = (str(file), stat.st_ino, stat.st_size, stat.st_mtime_ns, expected)
        if stamp in _known:
            return
        if sha256(file) == expected:
            _known.add(stamp)
            return
        why = "its SHA-256 is not the one that was taken when it was made: it has changed or is damaged"
    except FileNotFoundError:
        why = "is gone, though its stage finished"
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
    raise DataError(f"{file}: {why}; remove {folder} and run again to make it anew")


def _sums(folder: Path) -> dict[str, str]:
    try:
        return _read(folder, (folder / RECORD).stat().st_mtime_ns)
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        why = getattr(error, "reason", error)
        raise DataError(f"{folder}: its record or its sums are damaged ({why}); remove the folder to redo it") from None


@lru_cache(maxsize=256)
def _read(folder: Path, stamp: int) -> dict[str, str]:
    del stamp  # a record that was written anew is read anew
    record = read_record(folder / RECORD)
    if "sums" not in record:  # made before there were sums
        return {}
    if sha256(folder / FILE) != record["sums"]:
        raise ValueError(f"{FILE} has changed")
    return jsonio.read_json(folder / FILE)


def read_record(file: Path) -> dict[str, Any]:
    """A record's content; raises DamagedRecord, or FileNotFoundError if it is not there."""
    try:
        record = jsonio.read_json(file)
        if not isinstance(record, dict):
            raise ValueError("it is no mapping")
        return jsonio.unsealed(record) if jsonio.SUM in record or "sums" in record else record
    except (ValueError, TypeError) as error:
        raise DamagedRecord(file, str(error)) from None
