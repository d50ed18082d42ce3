"""Find what a root holds by the name that a person gives it."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from sslscale.errors import ConfigError, DataError
from sslscale.graph.dag import RECORD
from sslscale.settings.model import FILES
from sslscale.storage import mirror, sums

LATEST = "latest"


def find_checkpoint(root: Path, name: str, *, by_key: bool = False) -> Path:
    """The folder of a checkpoint; see `find`."""
    return find(root, name, kind="Checkpoint", by_key=by_key)


def checkpoint_folder(root: Path, name: str) -> Path:
    """The folder of a checkpoint that a configuration names by its folder, its URL or its key, with both of its files.

    Raises ConfigError, DataError if the files are not there.
    """
    if mirror.is_url(name) or Path(name).is_dir():
        folder = mirror.local(name, FILES)
    else:
        folder = find_checkpoint(root, name, by_key=True)
    if not all((folder / file).is_file() for file in FILES):
        raise DataError(f"{name}: no checkpoint there (it has no {' and '.join(FILES)}); see `sslscale ls`")
    return folder


def find(root: Path, name: str, *, kind: str | None = None, by_key: bool = False) -> Path:
    """The folder of a finished result, of one `kind` of artifact if that is given.

    `name` is a path, a key or the beginning of one, a stage's name (the newest result of that name), or `latest`; with
    `by_key` a path or a key alone, for configurations, which must mean the same after the next run.
    Raises ConfigError if there is none, or if the beginning of a key is that of several.
    """
    path = Path(name)
    if path.is_dir():
        return path
    found = [(folder, record) for folder, record in _records(root) if kind is None or record.get("kind") == kind]
    if name == LATEST and found and not by_key:
        return found[0][0]
    keyed = [folder for folder, record in found if len(name) >= 3 and folder.name.startswith(name)]
    if len(keyed) > 1:
        raise ConfigError(f"{name!r} begins the keys of {len(keyed)} results: {', '.join(f.name for f in keyed[:4])}")
    named = [folder for folder, record in found if record.get("name") == name]
    if keyed or (named and not by_key):
        return (keyed or named)[0]
    if named:
        raise ConfigError(f"{name!r} names a stage, whose result the next run changes: give its key, {named[0].name}")
    what = {"Checkpoint": "checkpoint", None: "result"}.get(kind, str(kind))
    known = list(dict.fromkeys(str(record.get("name")) for _, record in found))
    near = difflib.get_close_matches(name, known, 3, 0.5) or known[:5]
    hint = f"; it has {', '.join(near)}" if near else ": it holds no finished one"
    raise ConfigError(f"{name!r} is no folder, and no {what} of the root {root} by key, stage or `latest`{hint}")


def _records(root: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The finished results of a root, the newest first."""
    found = []
    for file in (root / "artifacts").glob(f"*/*/{RECORD}"):
        try:
            found.append((file.stat().st_mtime_ns, file.parent, sums.read_record(file)))
        except (OSError, ValueError):
            continue
    return [(folder, record) for _, folder, record in sorted(found, key=lambda item: item[0], reverse=True)]
