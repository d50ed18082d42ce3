"""Garbage collection: which artifacts are still used, and the removal of the others."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sslscale.errors import DataError
from sslscale.graph.dag import RECORD, Planned
from sslscale.storage import locks, mirror
from sslscale.storage.jsonio import digest, read_json, write_json
from sslscale.storage.scratch import scratch

_HOUR_S = 3600


def remember(root: Path, run_name: str, planned: Sequence[Planned]) -> None:
    """Note which artifacts a run uses, so that `collect` keeps them. The same run again replaces its note."""
    folder = root / "refs"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{digest(run_name)}.json"
    note = {"run": run_name, "keys": {p.stage.name: f"{p.stage.kind}/{p.key}" for p in planned}}
    if _read_note(file) != note:
        write_json(file, note)
        if store := mirror.of(root.absolute()):
            store.put([file.absolute()])


def collect(root: Path, *, dry_run: bool = False) -> list[tuple[Path, int]]:
    """Remove artifacts that no remembered run uses, and decoded images of theirs; returns what went, with its bytes.

    A stage that some process is working on is left alone.
    """
    kept: set[str] = set()
    store = mirror.of(root.absolute())
    for file in (root / "refs").glob("*.json"):
        note = _read_note(file)
        if note is None:  # which artifacts it keeps is not known: removing any of them would be a guess
            raise DataError(f"{file}: damaged; run the configurations of this root once more, or remove the file")
        kept.update(note["keys"].values())
    removed, shards = [], _shards(root)
    for path in sorted((root / "artifacts").glob("*/*")):
        if f"{path.parent.name}/{path.name}" in kept or not path.is_dir():
            continue
        lock = locks.try_lock(root / "locks" / f"{path.name}.lock")
        if lock is None:
            continue
        with lock:
            removed.append((path, sum(store.sizes(path.absolute()).values()) if store else tree_bytes(path)))
            if not dry_run:
                if store:
                    store.remove(path.absolute())
                (path / RECORD).unlink(missing_ok=True)  # first: a half-removed artifact must not look finished
                shutil.rmtree(path)
    if not dry_run:
        for left in (root / "artifacts").glob("*/*/*.tmp-*"):  # of drivers that were killed while they wrote a note
            with contextlib.suppress(FileNotFoundError):  # it was the note of a run that goes on
                if time.time() - left.stat().st_mtime > _HOUR_S:
                    left.unlink()
    return removed + _collect_cache(shards, {path for path, _ in removed}, dry_run)


def _shards(root: Path) -> dict[Path, set[str]]:
    """The checksums of the shards that each artifact has, as the names of cache files begin."""
    indexes = [*(root / "artifacts").glob("*/*/index.json"), *(root / "artifacts").glob("*/*/*/index.json")]
    found: dict[Path, set[str]] = {}
    for file in indexes:
        artifact = root / "artifacts" / Path(*file.relative_to(root / "artifacts").parts[:2])
        try:
            found.setdefault(artifact, set()).update(shard["sha256"][:24] for shard in read_json(file)["shards"])
        except (ValueError, KeyError, TypeError):  # what it keeps is not known
            raise DataError(f"{file}: damaged; `sslscale verify --repair` makes it anew") from None
    return found


def _collect_cache(shards: dict[Path, set[str]], gone: set[Path], dry_run: bool) -> list[tuple[Path, int]]:
    """Remove decoded images and tables, on this machine's disk, of shards that no artifact left has."""
    left = {checksum for path, own in shards.items() if path not in gone for checksum in own}
    unused = {checksum for path in gone for checksum in shards.get(path, ())} - left
    removed = []
    for file in sorted((scratch() / "cache").glob("*/*-v*")):
        if file.name.partition("-")[0] in unused:
            removed.append((file, file.stat().st_size))
            if not dry_run:
                file.unlink()
    return removed


def _read_note(file: Path) -> dict[str, Any] | None:
    """A note of a run; None if it is not there or is damaged."""
    try:
        note = read_json(file)
        return note if isinstance(note["keys"], dict) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def tree_bytes(path: Path) -> int:
    """Bytes of all files below `path`."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
