"""Read every file of a root again, and say which have changed since they were written, and what was made from them."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from sslscale.errors import DataError
from sslscale.graph.dag import RECORD
from sslscale.storage import jsonio, locks, sums

INDEX = "index.json"  # of a folder of shards: it has their sums


class Damage(NamedTuple):
    """A file that is not what was written, the artifact it is of (None: the tracking store), and why."""

    file: Path
    artifact: Path | None
    why: str


class Verified(NamedTuple):
    """What was read, what is damaged, and for each damaged artifact the artifacts that were made from it."""

    artifacts: int
    files: int
    bytes: int
    unfinished: int
    damage: list[Damage]
    dependents: Mapping[Path, list[Path]]


def verify(root: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> Verified:
    """Check every artifact's record, its sums, all files that they list, and its shards; and the tracking store.

    Shards that lie elsewhere, in a folder that was packed before, are checked where they lie; those of a store are
    checked when they are fetched, and not here.
    """
    places = sorted(path for path in (root / "artifacts").glob("*/*") if path.is_dir())
    counts = {"files": 0, "bytes": 0, "unfinished": 0}
    damage: list[Damage] = []
    makers: dict[str, list[Path]] = {}  # the artifacts made from a key
    for done, path in enumerate(places):
        progress(done, len(places))
        try:
            record = sums.read_record(path / RECORD)
        except FileNotFoundError:
            counts["unfinished"] += 1
            continue
        except (OSError, sums.DamagedRecord) as error:
            damage.append(Damage(path / RECORD, path, f"unreadable: {getattr(error, 'reason', error)}"))
            continue
        for key in _inputs(record):
            makers.setdefault(key, []).append(path)
        damage += [Damage(file, path, why) for file, why in _damaged(path, record, counts)]
    progress(len(places), len(places))
    damage += [Damage(file, None, why) for file, why in _store(root)]
    wrong = {one.artifact for one in damage if one.artifact is not None}
    dependents = {path: _made_from(path.name, makers) for path in sorted(wrong)}
    return Verified(len(places), counts["files"], counts["bytes"], counts["unfinished"], damage, dependents)


def repair(root: Path, found: Verified) -> list[Path]:
    """Remove the damaged artifacts, so that the same runs make them anew; returns what went.

    Raises DataError if some process is working on one of them.
    """
    gone = []
    for path in sorted({one.artifact for one in found.damage if one.artifact is not None}):
        lock = locks.try_lock(root / "locks" / f"{path.name}.lock")
        if lock is None:
            raise DataError(f"{path}: a run is working on it; stop that run, or wait for it")
        with lock:
            (path / RECORD).unlink(missing_ok=True)  # first: what is half removed must not look finished
            shutil.rmtree(path)
            gone.append(path)
    return gone


def _inputs(record: Mapping[str, Any]) -> Iterator[str]:
    for key in record.get("inputs", {}).values():
        yield str(key)


def _made_from(key: str, makers: Mapping[str, list[Path]]) -> list[Path]:
    """All artifacts that have this one among what they were made from, directly or not."""
    found: dict[Path, None] = {}
    waiting = [key]
    while waiting:
        for path in makers.get(waiting.pop(), ()):
            if path not in found:
                found[path] = None
                waiting.append(path.name)
    return list(found)


def _damaged(path: Path, record: Mapping[str, Any], counts: dict[str, int]) -> Iterator[tuple[Path, str]]:
    """The files of one artifact that have changed."""
    if "sums" in record:
        try:
            if sums.sha256(path / sums.FILE) != record["sums"]:
                raise ValueError("its SHA-256 is not the one in the record")
            listed = jsonio.read_json(path / sums.FILE)
        except (OSError, ValueError) as error:
            yield path / sums.FILE, str(error)
            listed = {}
        for name, expected in listed.items():
            yield from _compared(path / name, expected, counts)
    for index in (path / INDEX, *sorted(path.glob(f"*/{INDEX}"))):
        if index.is_file():
            yield from _shards(index, counts)


def _shards(index: Path, counts: dict[str, int]) -> Iterator[tuple[Path, str]]:
    try:
        shards = [(str(s.get("url") or s["file"]), str(s["sha256"])) for s in jsonio.read_json(index)["shards"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # the index itself is among the files that were compared
    for name, expected in shards:
        if "://" not in name and (file := index.parent / name).exists():
            yield from _compared(file, expected, counts)
        elif "://" not in name:
            yield index.parent / name, "is gone"


def _compared(file: Path, expected: str, counts: dict[str, int]) -> Iterator[tuple[Path, str]]:
    try:
        own = sums.sha256(file)
        counts["files"] += 1
        counts["bytes"] += file.stat().st_size
        if own != expected:
            yield file, "its SHA-256 is not the one that was taken when it was written"
    except FileNotFoundError:
        yield file, "is gone"
    except OSError as error:
        yield file, f"cannot be read: {error.strerror}"


def _store(root: Path) -> Iterator[tuple[Path, str]]:
    """Whether the tracking store can be read whole."""
    file = root / "mlflow.db"
    if not file.exists():
        return
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            (said,) = connection.execute("PRAGMA integrity_check").fetchone()
            if said != "ok":
                yield file, said.splitlines()[0]
    except sqlite3.Error as error:
        yield file, str(error)
