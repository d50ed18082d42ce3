"""Others' WebDatasets as a source of images: `webdataset:SHARDS`, paths or URLs with braces and wildcards."""

from __future__ import annotations

import fnmatch
import glob
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sslscale.data import tar
from sslscale.errors import DataError
from sslscale.storage import mirror
from sslscale.storage.store import Store

PREFIX = "webdataset:"
_HEAD = 4 << 20  # bytes of the first shard that a plan looks at


class Located(NamedTuple):
    """One shard of a source: its path or URL, its bytes, what changes with its content, and whether img2dataset's
    statistics lie beside it."""

    url: str
    size: int
    stamp: str
    has_stats: bool = False

    @property
    def name(self) -> str:
        """Its file name."""
        return self.url.rpartition("/")[2]


def locate(source: str) -> list[Located]:
    """The shards of a source such as `webdataset:s3://bucket/train-{0000..0146}.tar` or `webdataset:/data/*.tar`.

    Raises DataError if one that is named is not there or stands there twice, or none is found; ResourceError if a
    store does not answer.
    """
    from braceexpand import braceexpand  # as webdataset expands its URLs

    try:
        names = list(braceexpand(source.removeprefix(PREFIX)))
    except ValueError as error:
        raise DataError(f"{source}: its braces cannot be expanded: {error}") from None
    names = [name.removeprefix("file://") for name in names]
    folders: dict[str, list[str]] = {}  # of URLs: what is asked of each folder, in one call
    for name in names:
        if mirror.is_url(name):
            folder, _, last = name.rpartition("/")
            folders.setdefault(folder, []).append(last)
    listed = {folder: _listed(folder, lasts) for folder, lasts in folders.items()}
    found: list[Located] = []
    for name in names:
        folder, _, last = name.rpartition("/")
        here = _in_store(folder, last, listed[folder]) if mirror.is_url(name) else _on_disk(name)
        if not here:
            raise DataError(f"{source}: there is no shard {name}")
        found += here
    twice = [url for url, count in Counter(shard.url for shard in found).items() if count > 1]
    if twice:
        raise DataError(f"{source}: names the shard {twice[0]} twice")
    return found


def _listed(folder: str, names: list[str]) -> dict[str, tuple[int, str]]:
    if any(glob.has_magic(name) for name in names):
        if folder.startswith("http"):
            raise DataError(f"{folder}/{names[0]}: a web server lists no files: name the shards by braces")
        if glob.has_magic(folder):
            raise DataError(f"{folder}/{names[0]}: wildcards of URLs stand in the last part alone")
        return Store(folder).stamps()
    return Store(folder).stamps([*names, *map(_stats_name, names)])


def _in_store(folder: str, name: str, there: dict[str, tuple[int, str]]) -> list[Located]:
    names = sorted(fnmatch.filter(there, name)) if glob.has_magic(name) else [name] if name in there else []
    return [Located(f"{folder}/{one}", *there[one], _stats_name(one) in there) for one in names]


def _on_disk(name: str) -> list[Located]:
    found = []
    for file in map(Path, sorted(glob.glob(name)) if glob.has_magic(name) else [name]):
        if not file.is_file():
            return []
        stat = file.stat()
        stats = file.with_name(_stats_name(file.name)).is_file()
        found.append(Located(str(file.absolute()), stat.st_size, str(stat.st_mtime_ns), stats))
    return found


def _stats_name(name: str) -> str:
    return f"{name.removesuffix('.tar')}_stats.json"


def read_stats(shard: Located) -> dict[str, int]:
    """What img2dataset counted for a shard: `count`, `successes`, `failed_to_download`, `failed_to_resize`.

    Raises DataError if it cannot be read.
    """
    place = f"{shard.url.removesuffix('.tar')}_stats.json"
    try:
        if mirror.is_url(place):
            folder, _, name = place.rpartition("/")
            text: bytes | str = Store(folder).head(name, 1 << 20)
        else:
            text = Path(place).read_bytes()
        found = json.loads(text)
        names = ("count", "successes", "failed_to_download", "failed_to_resize")
        return {name: int(found[name]) for name in names if name in found}
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{place}: unreadable statistics ({error})") from None


def has_labels(source: str, label: str | None) -> bool:
    """Whether the first shard has labels, as far as its beginning tells."""
    if label == "none":
        return False
    first = locate(source)[0]
    if mirror.is_url(first.url):
        folder, _, name = first.url.rpartition("/")
        data = Store(folder).head(name, _HEAD)
    else:
        with open(first.url, "rb") as file:
            data = file.read(_HEAD)
    wanted = (label or "cls").partition(":")[0]
    return any(tar.split_name(member.name)[1] == wanted for member in _first_members(data))


def _first_members(data: bytes) -> Iterator[tar.Member]:
    try:
        yield from tar.members(data, "")
    except DataError:  # only its beginning was read
        return
