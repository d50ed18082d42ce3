"""Others' WebDatasets as a source of images: `webdataset:PATHS`, with braces and wildcards, labels in KEY.cls."""

from __future__ import annotations

import glob
import mmap
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from sslscale.data import tar
from sslscale.data.sources import SUFFIXES, Item, Listing, unique, usable_key
from sslscale.errors import DataError

PREFIX = "webdataset:"
_LABEL = "cls"


def expand(source: str) -> list[Path]:
    """The shards of a source such as `webdataset:/data/train-{0000..0146}.tar` or `webdataset:/data/*.tar`.

    Raises DataError if one that is named is not there, or none is found.
    """
    from braceexpand import braceexpand  # as webdataset expands its URLs

    found: list[Path] = []
    try:
        names = list(braceexpand(source.removeprefix(PREFIX)))
    except ValueError as error:
        raise DataError(f"{source}: its braces cannot be expanded: {error}") from None
    for name in names:
        matches = sorted(map(Path, glob.glob(name))) if glob.has_magic(name) else [Path(name)]
        missing = [path for path in matches if not path.is_file()]
        if missing or not matches:
            raise DataError(f"{source}: there is no shard {missing[0] if missing else name}")
        found += matches
    return found


def list_webdataset(source: str) -> Listing:
    """All images of the shards with their labels, numbers or names; raises DataError for a damaged shard.

    Samples are grouped as webdataset does: by the name up to the first dot of its last part. Other members, such as
    captions and JSON, are counted as skipped.
    """
    items: list[Item] = []
    skipped: Counter[str] = Counter()
    example: dict[str, str] = {}
    seen: dict[str, Path] = {}
    for path in expand(source):
        for key, members in _samples(path):
            images = [name for name in members if f".{name.rpartition('.')[2].lower()}" in SUFFIXES]
            for name in members:
                if name not in images[:1] and not (images and name == _LABEL):
                    skipped[f".{name}"] += 1
                    example.setdefault(f".{name}", f"{path}: {key}.{name}")
            if not images:
                continue
            if key in seen:
                raise DataError(f"{path}: the key {key!r} stands in {seen[key]} too")
            seen[key] = path
            member = members[images[0]]
            label = _read(path, members[_LABEL]).decode("utf-8", "replace").strip() if _LABEL in members else None
            suffix = f".{images[0].rpartition('.')[2].lower()}"
            read = partial(_read, path, member)
            items.append(Item(usable_key(key), f"{path}: {key}{suffix}", suffix, label or None, read))
    if not items:
        raise DataError(f"{source}: its shards hold no images ({', '.join(SUFFIXES)})")
    labels = {item.label for item in items if item.label}
    numbers = all(label.isdigit() for label in labels)
    return Listing(unique(items), tuple(sorted(labels, key=int if numbers else str)), skipped, example)


def has_labels(source: str) -> bool:
    """Whether the first shard has labels."""
    return any(_LABEL in members for _, members in _samples(expand(source)[0]))


def _samples(path: Path) -> Iterator[tuple[str, dict[str, tar.Member]]]:
    """Each sample's key and its members by extension, in the order of the shard."""
    if not path.stat().st_size:
        raise DataError(f"{path}: an empty file")
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        memoryview(data) as view,
    ):
        found = list(tar.members(view, str(path)))
    samples: dict[str, dict[str, tar.Member]] = {}
    for member in found:
        folder, slash, base = member.name.removeprefix("./").rpartition("/")
        stem, _, extension = base.partition(".")
        members = samples.setdefault(folder + slash + stem, {})
        if extension.lower() in members:
            raise DataError(f"{path}: {member.name!r} comes twice")
        members[extension.lower()] = member
    yield from samples.items()


def _read(path: Path, member: tar.Member) -> bytes:
    with open(path, "rb") as file:
        file.seek(member.offset)
        return file.read(member.size)
