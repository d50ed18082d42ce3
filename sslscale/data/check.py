"""Check shards as a whole: counts, checksums, labels, images that do not decode, class balance, duplicates."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sslscale.data import decode
from sslscale.data.index import INDEX, Index, read_index
from sslscale.data.shard import Shard
from sslscale.data.shards import open_shard
from sslscale.errors import DataError
from sslscale.settings.pixels import PixelConfig

LABELED = ("labeled", "val", "test")  # splits whose images must all have a label
_SHOWN = 20


def check(folder: Path, *, threads: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Check one folder of shards, or all splits below it; says what it finds and returns it as plain JSON.

    `problems` lists by shard and key every damaged shard, undecodable image, label out of range, missing label of a
    labelled split, duplicate key, class without images, and what an interrupted packing left. Images with the same
    bytes are reported; only those that two splits share are a problem (the test set leaks).
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    alone = (folder / INDEX).exists()
    splits = [folder] if alone else sorted(p.parent for p in folder.glob(f"*/{INDEX}"))
    problems = [] if alone else list(_unfinished(folder))
    if not splits and not problems:
        raise DataError(f"{folder}: no shards there (no {INDEX}); make them with: sslscale data pack SRC {folder}")
    found: dict[str, _Split] = {}
    seen = _Seen()
    with ThreadPoolExecutor(threads) as pool:
        for split in splits:
            try:
                index = read_index(split)
            except DataError as error:
                problems.append(str(error))
                continue
            found[split.name] = one = _Split(index)
            one.look(pool, seen)
            problems += [*one.problems, *_leftovers(index), *one.missing_labels()]
            say(one.line(split.name))
    if len({one.index.classes for one in found.values()}) > 1:
        problems.append(f"{folder}: its splits do not have the same classes")
    if not alone and found and not {"labeled", "unlabeled"} & found.keys():
        problems.append(f"{folder}: has no images to learn from (labeled or unlabeled)")
    problems += seen.leaks
    say(f"{seen.repeats:,} images repeat another, byte for byte; {len(seen.leaks)} of them across the test split")
    for problem in problems[:_SHOWN]:
        say(f"problem: {problem}")
    if len(problems) > _SHOWN:
        say(f"... and {len(problems) - _SHOWN:,} more")
    say(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}" if problems else "no problems")
    shown = {name: one.report() for name, one in found.items()}
    return {"splits": shown, "repeats": seen.repeats, "problems": problems}


def _unfinished(folder: Path) -> Iterator[str]:
    """Folders of shards that no index makes a whole set: a packing that was stopped."""
    for place in sorted({folder, *(path for path in folder.iterdir() if path.is_dir())}):
        shards = len(list(place.glob("*.tar")))
        if shards and not (place / INDEX).exists():
            yield f"{place}: half-written: {shards} shards without an {INDEX}; remove it and pack again"


def _leftovers(index: Index) -> Iterator[str]:
    """Files beside the shards that the index does not know."""
    known = {info.file for info in index.shards}
    for file in sorted(index.folder.iterdir()):
        if ".tmp-" in file.name:
            yield f"{file}: left by a packing that was stopped; remove it"
        elif file.suffix == ".tar" and file.name not in known:
            yield f"{file}: is not in {INDEX}; remove it or pack again"


@dataclass
class _Seen:
    """What all splits have shown so far: keys, and images by their content."""

    content: dict[bytes, tuple[str, str]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    leaks: list[str] = field(default_factory=list)
    repeats: int = 0

    def image(self, digest: bytes, split: str, key: str, place: str) -> None:
        first = self.content.setdefault(digest, (split, key))
        if first != (split, key):
            self.repeats += 1
            if first[0] != split and "test" in (first[0], split):
                self.leaks.append(f"{place}: the same image as {first[0]}/{first[1]}")


@dataclass
class _Split:
    """What was found in one folder of shards."""

    index: Index
    good: int = 0
    unlabeled: list[str] = field(default_factory=list)  # places
    balance: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def look(self, pool: ThreadPoolExecutor, seen: _Seen) -> None:
        """Read all shards."""
        for number, info in enumerate(self.index.shards):
            try:
                shard = open_shard(self.index, number)
                if self.index.has_labels:
                    labels = self.index.labels[self.index.starts[number] : self.index.starts[number + 1]]
                else:
                    labels = shard.labels(len(self.index.classes))
            except DataError as error:
                self.problems.append(str(error))
                continue
            names = shard.keys
            self.formats.update(shard.extension(row) for row in range(len(shard)))
            self.balance.update(self.index.classes[label] for label in labels[labels >= 0].tolist())
            missing = np.flatnonzero((labels < 0) & ~shard.has_soft)
            self.unlabeled += [f"{shard.path}: {names[row]}" for row in missing.tolist()]
            own = f"{self.index.folder.name}/{info.file}"
            for key in names:
                if key in seen.keys:
                    self.problems.append(f"{shard.path}: {key}: the key stands in {seen.keys[key]} too")
                seen.keys[key] = own
            looked = pool.map(lambda r, s=shard: _look(s, r, self.index.pixels), range(len(shard)))
            for row, (why, content) in enumerate(looked):
                place = f"{shard.path}: {names[row]}"
                if why:
                    self.problems.append(f"{place}: {why}")
                    continue
                self.good += 1
                seen.image(content, self.index.folder.name, names[row], place)

    def missing_labels(self) -> Iterator[str]:
        """Of a labelled split: images without a label, and classes without an image."""
        name = self.index.folder.name
        if name not in LABELED:
            return
        if self.unlabeled:
            yield (
                f"{self.index.folder}: {len(self.unlabeled):,} of {self.index.num_samples:,} images of a labelled "
                f"split have no label; the first: {self.unlabeled[0]}"
            )
        if not self.index.classes:
            yield f"{self.index.folder}: a labelled split without classes"
        empty = [label for label in self.index.classes if not self.balance[label]]
        if empty and name == "labeled" and not self.problems:
            yield f"{self.index.folder}: class {empty[0]!r} has no image, nor have {len(empty) - 1} more classes"

    def line(self, name: str) -> str:
        """A line for a person."""
        shown = ", ".join(f"{count:,} {kind}" for kind, count in self.formats.items())
        counts = self.balance.values()
        spread = f", {min(counts):,} to {max(counts):,} a class" if counts else ""
        without = f", {len(self.unlabeled):,} without a label" if self.unlabeled else ""
        return (
            f"{name:10} {self.good:,} of {self.index.num_samples:,} images in {len(self.index.shards)} shards "
            f"({shown}){spread}{without}"
        )

    def report(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return {
            "images": self.good,
            "expected": self.index.num_samples,
            "shards": len(self.index.shards),
            "classes": dict(sorted(self.balance.items())),
            "unlabeled": len(self.unlabeled),
            "formats": dict(self.formats),
        }


def _look(shard: Shard, row: int, pixels: PixelConfig) -> tuple[str | None, bytes]:
    data = shard.encoded(row)
    try:
        decode.decode(data, pixels=pixels)
    except DataError as error:
        return str(error), b""
    return None, hashlib.sha256(data).digest()
