"""The identity of what lies outside the root: a source by its content, not by its place."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from sslscale.data import annotations, sources, videos, webdatasets
from sslscale.errors import DataError
from sslscale.storage import jsonio, mirror

HASHED_BYTES = 2 << 30  # a larger folder is identified by names, sizes and times instead of its content


def fingerprint(source: str, root: Path | None, captions: str | None = None, *, video: bool = False) -> str:
    """Hash the content of a source, and of the captions beside its images, if they are read; or of videos.

    Contents are read once: sizes and times tell whether to read them again. A folder over 2 GiB is identified by the
    names, sizes and times of its files, as is any without a root to remember the hash.
    """
    if source == "digits":
        return "digits"
    if source.startswith("torchvision:"):
        parts = source.split(":")[1:]
        if len(parts) < 2:
            raise DataError(f"{source!r}: write torchvision:NAME:ROOT[:SPLIT]")
        name, place, *rest = parts
        if not sources.is_dir(Path(place)):
            raise DataError(f"{place}: there is no such folder")
        files = [file for file in sorted(Path(place).rglob("*")) if file.is_file()]
        return jsonio.digest(["torchvision", name, rest, _content(Path(place), files, root)])
    if source.startswith(webdatasets.PREFIX):
        shards = webdatasets.locate(source)
        if any(mirror.is_url(shard.url) for shard in shards):
            return jsonio.digest([[shard.url, shard.size, shard.stamp] for shard in shards], 32)
        files = [Path(shard.url) for shard in shards]
        return _content(files[0].parent, files, root)
    if source.startswith(annotations.PREFIXES):
        return _content(*annotations.files(source), root)
    path = sources.local_path(source)
    if sources.is_packed(source):
        indexes = sorted(path.glob("*/index.json"))
        return jsonio.digest([[file.parent.name, file_hash(file)] for file in indexes])
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    if mirror.is_url(source):
        sources.list_source(source)
    if path.is_file():
        base, files = path.parent, [path]
        if path.suffix == ".csv":
            files += [file for _, file, _ in sources.manifest_rows(path, captions)[0]]
    else:
        suffixes = videos.SUFFIXES + videos.SOUND_SUFFIXES if video else sources.SUFFIXES
        base, files = path, list(sources.image_files(path, suffixes=suffixes))
        if captions is not None:
            files += [text for text in map(sources.caption_file, files) if text.is_file()]
    return _content(base, files, root)


def _content(base: Path, files: list[Path], root: Path | None) -> str:
    stats = [(os.path.relpath(file, base), file.stat()) for file in files]
    signature = jsonio.digest([[name, s.st_size, s.st_mtime_ns] for name, s in stats], 32)
    if root is None or sum(s.st_size for _, s in stats) > HASHED_BYTES:
        return signature
    store = root / "cache" / "fingerprints.json"
    try:
        known = jsonio.read_json(store)
    except (OSError, ValueError):  # not there, or damaged: made again
        known = {}
    if signature not in known:
        names = [name for name, _ in stats]
        known[signature] = jsonio.digest([[n, file_hash(f)] for n, f in zip(names, files, strict=True)], 32)
        if root.is_dir():
            store.parent.mkdir(parents=True, exist_ok=True)
            jsonio.write_json(store, known)
    return known[signature]


def file_hash(path: Path) -> str:
    """SHA-256 of one file; raises DataError if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
