"""What a machine keeps on its own disk for all runs of a user: mirrors, decoded images, shards fetched from stores."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from sslscale.errors import DataError, ResourceError
from sslscale.storage import jsonio, locks
from sslscale.storage.store import Store

_WAIT_S = 3600.0  # for another process of this machine that fetches the same shard
log = logging.getLogger(__name__)


def scratch() -> Path:
    """This user's folder on this machine: SSLSCALE_SCRATCH, else sslscale-UID in TMPDIR, /var/tmp or /tmp."""
    named = os.environ.get("SSLSCALE_SCRATCH")
    folder = Path(named) if named else _temporary() / f"sslscale-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ResourceError(f"{folder}: is another user's; set SSLSCALE_SCRATCH to a folder of your own")
    return folder.absolute()


def _temporary() -> Path:
    """Where temporary files may be large: /tmp often lies in memory, /var/tmp does not."""
    lasting = Path("/var/tmp")  # noqa: S108
    if "TMPDIR" not in os.environ and lasting.is_dir() and os.access(lasting, os.W_OK):
        return lasting
    return Path(tempfile.gettempdir())


def room(folder: Path, held: int) -> int:
    """Bytes that a cache of `held` bytes may grow to: half of what would be free without it, so that others can too."""
    return (shutil.disk_usage(folder).free + held) // 2


@dataclass(frozen=True)
class Local:
    """A folder on this machine's disk, shared by its processes.

    `tables/` remembers which shards were checked and where their samples lie. `shards/` holds those fetched from
    stores, up to `shard_bytes` (None: half of the free disk); the least recently used ones are removed first.
    `images/` holds decoded images.
    """

    folder: Path
    shard_bytes: int | None = None

    @property
    def tables(self) -> Path:
        """Where the tables of shards lie."""
        return self.folder / "tables"

    def fetch(self, url: str, name: str, size: int) -> Path:
        """This machine's copy of a file of a store, fetched if it is not here: once, whatever asks for it.

        `name` tells its content from any other's, `size` is in bytes. A copy that is removed later stays readable for
        those that have it open. Raises DataError if it is not there or has another size, ResourceError if the store
        does not answer or the disk is full.
        """
        file = self.folder / "shards" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if _is_whole(file, size):
            return file
        lock = locks.acquire(file.with_name(f"{name}.lock"), wait_s=_WAIT_S)
        try:
            if not _is_whole(file, size):
                self._make_room(file.parent, size)
                self._download(url, file, size)
        finally:
            lock.path.unlink(missing_ok=True)
            lock.release()
        return file

    def rename(self, name: str, new: str) -> None:
        """Keep a fetched file under another name, now that its content is known."""
        folder = self.folder / "shards"
        with contextlib.suppress(OSError):  # another process was faster, or it was removed already
            os.replace(folder / name, folder / new)
            _used(folder / name).unlink(missing_ok=True)
            _mark_used(folder / new)

    def _download(self, url: str, file: Path, size: int) -> None:
        place, _, name = url.rpartition("/")
        temporary = file.with_name(f"{file.name}.tmp-{uuid.uuid4().hex[:8]}")
        try:
            Store(place).download(name, temporary)
            if (found := temporary.stat().st_size) != size:
                raise DataError(f"{url}: {found:,} bytes, but its index says {size:,}: cut or changed; index it again")
            os.replace(temporary, file)
            _mark_used(file)
        except FileNotFoundError:
            raise DataError(
                f"{url}: is not there, though the index has it; put it back, or index the set again"
            ) from None
        except OSError as error:
            raise ResourceError(f"{temporary}: cannot write {size:,} bytes: {error.strerror or error}") from error
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, folder: Path, needed: int) -> None:
        """Remove what was not used for longest until `needed` bytes fit."""
        held = []
        for file in folder.iterdir():
            try:
                if file.suffix == ".tar":
                    held.append((_used(file).stat().st_mtime_ns, file.stat().st_size, file))
            except FileNotFoundError:
                continue
        total = sum(size for _, size, _ in held)
        limit = room(folder, total) if self.shard_bytes is None else self.shard_bytes
        for _, size, file in sorted(held):
            if total + needed <= limit:
                break
            log.info("room for shards is used up: removing %s", file)
            for gone in (file, _used(file)):
                gone.unlink(missing_ok=True)
            total -= size


def _is_whole(file: Path, size: int) -> bool:
    """Whether the file is there whole; it is then the most recently used."""
    try:
        if file.stat().st_size != size:
            return False
    except FileNotFoundError:
        return False
    _mark_used(file)
    return True


def _used(file: Path) -> Path:
    """An empty file whose time says when a shard was last asked for; the shard's own times tell whether it changed."""
    return file.with_suffix(".used")


def _mark_used(file: Path) -> None:
    now = time.time_ns()  # finer than the clock that the file system would take
    _used(file).touch()
    os.utime(_used(file), ns=(now, now))


def mirror_folder(url: str) -> Path:
    """Where the mirror of a URL lies."""
    return scratch() / jsonio.digest(url.rstrip("/"))
