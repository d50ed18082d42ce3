"""An object store behind a URL (s3://, gs://, what else fsspec knows): calls that try again, and errors in one line."""

from __future__ import annotations

import functools
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sslscale.errors import ConfigError, ResourceError
from sslscale.storage import addresses

T = TypeVar("T")
_TRIES, _PAUSE = 5, 0.2  # seconds before the second try; twice as many before each next one
_GOOGLE = ("gs", "gcs")
_FEW_NAMES = 16  # files that are asked for one by one, so many at a time
_PATIENCE = 20.0  # seconds for Google's stores: gcsfs tries again by itself, for half a minute a call
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ValueError, TypeError, ImportError)


class Store:
    """One prefix of a store. Names are relative to it. Each call raises ResourceError if the store does not answer."""

    def __init__(self, url: str):
        self.url = url
        self._fs, self._base = _open(url)

    def sizes(self, name: str) -> dict[str, int]:
        """The names below a prefix, relative to it, with their bytes."""
        base = self._path(name)
        self._fs.invalidate_cache()
        try:
            found: Mapping[str, Any] = self._call(self._fs.find, base, detail=True)
        except FileNotFoundError:
            return {}
        names = {name.removeprefix(base).lstrip("/"): int(info["size"] or 0) for name, info in found.items()}
        return {name: size for name, size in names.items() if ".." not in name.split("/")}  # nothing leaves its folder

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return self._call(self._fs.exists, self._path(name))

    def size(self, name: str) -> int | None:
        """The bytes of a file; None if it is not there."""
        try:
            return int(self._call(self._fs.info, self._path(name))["size"] or 0)
        except FileNotFoundError:
            return None

    def stamps(self, names: Sequence[str] | None = None) -> dict[str, tuple[int, str]]:
        """Bytes, and what changes with the content, of the files directly below, or of these; absent ones are left out.

        One listing where the store has them; web servers are asked for each file.
        """
        if names is None or (len(names) > _FEW_NAMES and not self.url.startswith("http")):
            found = self._call(self._listed)
            return {name: found[name] for name in (found if names is None else names) if name in found}
        with ThreadPoolExecutor(_FEW_NAMES) as threads:
            each = threads.map(self._stamp_of, names)
        return {name: stamp for name, stamp in zip(names, each, strict=True) if stamp is not None}

    def _listed(self) -> dict[str, tuple[int, str]]:
        self._fs.invalidate_cache()
        try:
            entries = self._fs.ls(self._base, detail=True)
        except FileNotFoundError:
            return {}
        return {str(e["name"]).rpartition("/")[2]: _stamp(e) for e in entries if e["type"] == "file"}

    def _stamp_of(self, name: str) -> tuple[int, str] | None:
        try:
            return _stamp(self._call(self._fs.info, self._path(name)))
        except FileNotFoundError:
            return None

    def head(self, name: str, size: int) -> bytes:
        """The first bytes of a file; raises FileNotFoundError if it is not there."""
        return self._call(self._fs.cat_file, self._path(name), start=0, end=size)

    def download(self, name: str, file: Path) -> None:
        """Fetch one file whole; raises FileNotFoundError if it is not there."""
        self._call(functools.partial(self._download, self._path(name), file))

    def upload(self, file: Path, name: str) -> None:
        """Write one file; a reader sees all of it or nothing."""
        self._write(self._fs.put_file, str(file), self._path(name))

    def write(self, name: str, data: bytes) -> None:
        """Write one small file."""
        self._write(self._fs.pipe_file, self._path(name), data)

    def remove(self, name: str) -> None:
        """Remove a file, or all below a prefix."""
        self._call(self._remove, self._path(name))

    def arrow(self) -> tuple[Any, str]:
        """The store as pyarrow sees it, and the prefix there."""
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        return PyFileSystem(FSSpecHandler(self._fs)), self._base

    def _path(self, name: str) -> str:
        return self._base if name in (".", "") else f"{self._base}/{name}"

    def _write(self, function: Callable[..., object], *arguments: Any) -> None:
        try:
            self._call(function, *arguments)
        except FileNotFoundError as error:
            raise ResourceError(f"{self.url}: cannot be written ({error}); is there such a bucket?") from None

    def _download(self, path: str, file: Path) -> None:
        size = int(self._fs.info(path)["size"])
        self._fs.get_file(path, str(file))
        if file.stat().st_size != size:
            raise OSError(f"{file.stat().st_size:,} of {size:,} bytes came")

    def _remove(self, path: str) -> None:
        if self._fs.exists(path):
            self._fs.rm(path, recursive=True)

    def _call(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Call the store, again after a while if that may help; raises FileNotFoundError and ResourceError."""
        deadline = time.monotonic() + (_PATIENCE if self.url.startswith(_GOOGLE) else float("inf"))
        for attempt in range(_TRIES):
            try:
                return function(*arguments, **options)
            except FileNotFoundError:
                raise
            except Exception as error:
                last = attempt == _TRIES - 1 or time.monotonic() > deadline
                if last or isinstance(error, _FINAL) or _is_denied(error):
                    raise ResourceError(_reason(self.url, error)) from error
            time.sleep(_PAUSE * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311
        raise AssertionError


def _stamp(info: Mapping[str, Any]) -> tuple[int, str]:
    """Bytes, and whatever the store says of a file's version."""
    told = (info.get(name) for name in ("ETag", "etag", "LastModified", "mtime", "updated", "last_modified"))
    return int(info.get("size") or 0), str(next((value for value in told if value), ""))


def _open(url: str) -> tuple[Any, str]:
    import fsspec

    scheme = url.partition("://")[0]
    if addresses.has_secret(url):  # it would be written into records, reports and logs
        raise ConfigError(f"{addresses.masked(url)}: {addresses.ADVICE}")
    options: dict[str, Any] = {}
    if scheme in ("s3", "s3a"):  # or a wrong address waits for minutes
        options["config_kwargs"] = {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 1}}
    if scheme in _GOOGLE:  # it logs tracebacks of what it raises
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    try:
        if "::" in url:
            raise ValueError("one protocol, not a chain of them")
        if scheme in ("file", "local", "memory"):
            raise ValueError("that is no store that others see")
        fs, base = fsspec.core.url_to_fs(url, use_listings_cache=False, **options)
    except ImportError as error:
        raise ConfigError(f"{url}: {error}; S3 and Google's stores need: pip install 'sslscale[cluster]'") from None
    except ValueError as error:
        raise ConfigError(f"{url}: {error}") from None
    return fs, base.rstrip("/")


def _reason(url: str, error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if _is_denied(error):
        return f"{url}: access is denied ({text}); give credentials that may read and write there"
    return f"{url}: the store does not answer as it should ({text}); check the address, and the endpoint if it has one"


def _is_denied(error: Exception) -> bool:
    forbidden = str(error).startswith("Forbidden: ")  # gcsfs's, an OSError like any other
    return forbidden or isinstance(error, PermissionError) or "Credentials" in type(error).__name__
