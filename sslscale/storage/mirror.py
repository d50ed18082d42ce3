"""Folders on object stores (s3://, gs://, what else fsspec knows), each mirrored on the machine that uses it.

A mirror is a plain folder with a note of its URL; everything else reads and writes that folder. What a stage needs is
pulled before it runs, what it leaves is pushed after, its record last of all: the store never shows half an artifact
as a whole one. Shards are fetched one by one, when they are opened (data/shards.py). A root in a store is as one on
disk, but for `records/KIND.KEY.json`: copies of all records under one prefix, so that a plan lists one folder and not
millions of shards.
"""

from __future__ import annotations

import functools
import os
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sslscale.errors import ResourceError
from sslscale.storage import jsonio
from sslscale.storage.scratch import mirror_folder
from sslscale.storage.store import Store

NOTE = ".mirror.json"
RECORD = "record.json"
_WHOLE = ("index.json", "commit.json")  # shards are a whole set by the one, a state to go on from is by the other
LAZY = (".tar",)  # fetched when they are opened
_OWN = {NOTE, "writer.lock", "progress.json", "progress.tmp", "mlflow.json", "stop"}  # of this machine's run alone
_STATE = "state/"  # the one part of an artifact that shrinks as it is made
_THREADS = 8


def is_url(place: str | os.PathLike[str]) -> bool:
    """Whether a place is an address in a store, not a path (`file://` is one)."""
    return "://" in os.fspath(place) and not os.fspath(place).startswith("file://")


def local(place: str, files: Iterable[str]) -> Path:
    """A local folder for a path or URL: a path itself, or a mirror of the URL with those of `files` that the store has.

    Raises ResourceError if the store cannot be reached, ConfigError for an unknown kind of URL.
    """
    if not is_url(place):
        return Path(place.removeprefix("file://"))
    own = at(place, mirror_folder(place))
    own.get([own.folder / name for name in files], optional=True)
    return own.folder


def open_root(place: str) -> Path:
    """A root as a local folder. For a URL, the records of its artifacts and the notes of its runs are downloaded."""
    if not is_url(place):
        return Path(place.removeprefix("file://"))
    root = at(place, mirror_folder(place))
    root.refresh()
    return root.folder


def of(path: Path) -> Mirror | None:
    """The mirror that contains a path, or None."""
    for folder in (path, *path.parents):
        if (folder / NOTE).is_file():
            return at(jsonio.read_json(folder / NOTE)["url"], folder)
    return None


def shown(path: Path) -> str:
    """A path to show to the user: its URL if it is inside a mirror."""
    found = of(path.absolute())
    return str(path) if found is None else found.url_of(path.absolute())


def at(url: str, folder: Path) -> Mirror:
    """The mirror of a URL in a folder, created if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    note = {"url": url.rstrip("/")}
    if not (folder / NOTE).is_file() or jsonio.read_json(folder / NOTE) != note:
        jsonio.write_json(folder / NOTE, note)
    return _mirror(url.rstrip("/"), folder)


@functools.lru_cache(maxsize=64)
def _mirror(url: str, folder: Path) -> Mirror:
    return Mirror(url, folder)


class Mirror:
    """A local folder and a prefix in a store. Arguments are local paths."""

    def __init__(self, url: str, folder: Path):
        self.url, self.folder = url, folder
        self.store = Store(url)
        self._sent: dict[str, tuple[int, int]] = {}  # bytes and time of change here, of what the store has
        self._listed: set[Path] = set()

    def url_of(self, path: Path) -> str:
        """The URL of a local path."""
        relative = path.relative_to(self.folder).as_posix()
        return self.url if relative == "." else f"{self.url}/{relative}"

    def pull(self, path: Path, *, skip: tuple[str, ...] = LAZY, exact: bool = False) -> None:
        """Download what a local folder lacks of what the store has, except files that end with one of `skip`.

        With `exact`, local files that the store does not have are removed, so that all machines have the same files.
        """
        remote = self.sizes(path)
        wanted = []
        for name, size in remote.items():
            file = path / name
            if name.endswith(skip) or _is_own(name):
                continue
            if not file.is_file():
                wanted.append(file)
                continue
            stamp = _stamp(file)
            known = self._sent.setdefault(str(file), stamp) if stamp[0] == size else self._sent.get(str(file))
            # changed here since; or a log that is longer here, of an attempt that was stopped: it is cut to its step
            newer = known not in (None, stamp) or (file.suffix == ".jsonl" and stamp[0] > size)
            if stamp[0] != size and (exact or not newer):
                wanted.append(file)
        self.get(wanted)
        if exact:
            for name, file in _files(path):
                if name not in remote:
                    file.unlink(missing_ok=True)
            for folder, _, _ in os.walk(path, topdown=False):
                if folder != str(path) and not os.listdir(folder):
                    os.rmdir(folder)

    def push(self, path: Path) -> None:
        """Upload what has changed in a local folder, except its record, which `commit` uploads."""
        files = dict(_files(path))
        files.pop(RECORD, None)
        if path not in self._listed:
            for name, size in self.sizes(path).items():
                if name in files and files[name].stat().st_size == size:
                    self._note(files[name])
                elif name.startswith(_STATE):
                    self._sent.setdefault(str(path / name), (-1, -1))
            self._listed.add(path)
        changed = [file for file in files.values() if self._sent.get(str(file)) != _stamp(file)]
        # lost half way, the store has no state without its files, nor one that is ahead of the log
        self.put((file for file in changed if file.name not in _WHOLE), known=False)
        self.put(file for file in changed if file.name in _WHOLE)
        state = f"{path}/{_STATE}"
        for name in [name for name in self._sent if name.startswith(state) and not os.path.exists(name)]:
            self.store.remove(self._name(Path(name)))
            del self._sent[name]

    def commit(self, path: Path, record: bytes) -> None:
        """Upload an artifact's record, which makes it finished for all machines."""
        self.store.write(self._name(path / RECORD), record)
        self.store.write(_record_name(path), record)

    def has_record(self, path: Path) -> bool:
        """Whether the store has a finished artifact there."""
        return self.store.has(_record_name(path))

    def refresh(self) -> None:
        """Download the records and the notes of runs that the store has; remove local records that it does not have."""
        there = {}
        for name in self.sizes(self.folder / "records"):
            kind, _, key = name.removesuffix(".json").rpartition(".")
            if not kind.strip(".") or not key:
                continue
            there[self.folder / "artifacts" / kind / key / RECORD] = name
        for file in (self.folder / "artifacts").glob(f"*/*/{RECORD}"):
            if file not in there:
                file.unlink()  # removed in the store, or never committed
        self.get([file for file in there if not file.exists()], lambda file: f"records/{there[file]}")
        refs = [self.folder / "refs" / name for name in self.sizes(self.folder / "refs") if name.endswith(".json")]
        self.get(refs)

    def remove(self, path: Path) -> None:
        """Remove an artifact from the store, its record first."""
        for name in (_record_name(path), self._name(path)):
            self.store.remove(name)
        self._listed.discard(path)
        self._sent = {name: stamp for name, stamp in self._sent.items() if not name.startswith(f"{path}/")}

    def sizes(self, path: Path) -> dict[str, int]:
        """The names below a folder in the store, with their bytes."""
        return self.store.sizes(self._name(path))

    def get(self, files: Iterable[Path], where: Callable[[Path], str] | None = None, *, optional: bool = False) -> None:
        """Download files, each atomically; with `optional`, missing files are skipped."""

        def one(file: Path) -> None:
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f"{file.name}.tmp-{uuid.uuid4().hex[:8]}")
            try:
                self.store.download(where(file) if where else self._name(file), temporary)
                os.replace(temporary, file)
                self._note(file)
            except FileNotFoundError:
                if not optional:
                    raise ResourceError(f"{self.url_of(file)}: is not there, though its folder has it listed") from None
            finally:
                temporary.unlink(missing_ok=True)

        _in_parallel(one, files)

    def put(self, files: Iterable[Path], *, known: bool = True) -> None:
        """Upload files; a reader sees all of one or nothing. Of files that are not `known` to have changed those pass
        that another process of this machine has uploaded."""

        def one(file: Path) -> None:
            stamp = _stamp(file)
            if known or str(file) in self._sent or self.store.size(self._name(file)) != stamp[0]:
                self.store.upload(file, self._name(file))
            self._sent[str(file)] = stamp

        _in_parallel(one, files)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _note(self, file: Path) -> None:
        if file.is_file():
            self._sent[str(file)] = _stamp(file)


def _record_name(path: Path) -> str:
    return f"records/{path.parent.name}.{path.name}.json"


def _files(path: Path) -> Iterable[tuple[str, Path]]:
    """Names and files below a folder, without what is of this machine alone or half written."""
    for folder, _, names in os.walk(path, followlinks=True):
        for name in names:
            file = Path(folder) / name
            relative = file.relative_to(path).as_posix()
            if not _is_own(relative):
                yield relative, file


def _is_own(name: str) -> bool:
    parts = name.split("/")
    if parts[-1] == NOTE:
        return len(parts) == 1  # below, it says whose mirror a folder of an artifact is: a part of the artifact
    return parts[-1] in _OWN or any(part.startswith(("tmp-", "memory-")) or ".tmp" in part for part in parts)


def _stamp(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


def _in_parallel(function: Callable[[Path], None], files: Iterable[Path]) -> None:
    files = list(files)
    if len(files) == 1:
        function(files[0])
    elif files:
        with ThreadPoolExecutor(min(_THREADS, len(files))) as pool:
            list(pool.map(function, files))
