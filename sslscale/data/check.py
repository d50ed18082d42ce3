"""Check shards as a whole: counts, checksums, images that do not decode, class balance, duplicates."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sslscale.data import decode
from sslscale.data.shards import Shard, open_shard, read_index
from sslscale.errors import DataError

_SHOWN = 20


def check(folder: Path, *, threads: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Check one folder of shards, or all splits below it; says what it finds and returns it as plain JSON.

    `problems` lists every damaged shard, undecodable image, label out of range and duplicate key by shard and key.
    Images with the same bytes are reported; only those that two splits share are a problem (the test set leaks).
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    splits = [folder] if (folder / "index.json").exists() else sorted(p.parent for p in folder.glob("*/index.json"))
    if not splits:
        raise DataError(f"{folder}: no shards there (no index.json); make them with: sslscale data pack SRC {folder}")
    problems: list[str] = []
    report: dict[str, Any] = {"splits": {}}
    seen: dict[bytes, tuple[str, str]] = {}
    leaks: list[str] = []
    repeats = 0
    with ThreadPoolExecutor(threads) as pool:
        for split in splits:
            try:
                index = read_index(split)
            except DataError as error:
                problems.append(str(error))
                continue
            keys: dict[str, str] = {}
            balance: Counter[str] = Counter()
            formats: Counter[str] = Counter()
            good = 0
            for info in index.shards:
                try:
                    shard = open_shard(split, info)
                    labels = shard.labels(len(index.classes))
                except DataError as error:
                    problems.append(str(error))
                    continue
                formats.update(shard.extension(row) for row in range(len(shard)))
                balance.update(index.classes[label] if label >= 0 else "(no label)" for label in labels.tolist())
                names = shard.keys
                for key in names:
                    if key in keys:
                        problems.append(f"{shard.path}: {key}: the key stands in {keys[key]} too")
                    keys[key] = info.file
                for row, (why, content) in enumerate(pool.map(lambda r, s=shard: _look(s, r), range(len(shard)))):
                    place = f"{shard.path}: {names[row]}"
                    if why:
                        problems.append(f"{place}: {why}")
                        continue
                    good += 1
                    first = seen.setdefault(content, (split.name, names[row]))
                    if first != (split.name, names[row]):
                        repeats += 1
                        if first[0] != split.name and "test" in (first[0], split.name):
                            leaks.append(f"{place}: the same image as {first[0]}/{first[1]}")
            report["splits"][split.name] = {
                "images": good,
                "expected": index.num_samples,
                "shards": len(index.shards),
                "classes": dict(sorted(balance.items())),
                "formats": dict(formats),
            }
            counts = [count for name, count in balance.items() if name != "(no label)"]
            spread = f", {min(counts):,} to {max(counts):,} a class" if counts else ", no labels"
            shown = ", ".join(f"{count:,} {name}" for name, count in formats.items())
            say(
                f"{split.name:10} {good:,} of {index.num_samples:,} images in {len(index.shards)} shards "
                f"({shown}){spread}"
            )
    problems += leaks
    say(f"{repeats:,} images repeat another, byte for byte; {len(leaks)} of them across the test split")
    for problem in problems[:_SHOWN]:
        say(f"problem: {problem}")
    if len(problems) > _SHOWN:
        say(f"... and {len(problems) - _SHOWN:,} more")
    say(f"{len(problems)} problems" if problems else "no problems")
    return {**report, "repeats": repeats, "problems": problems}


def _look(shard: Shard, row: int) -> tuple[str | None, bytes]:
    data = shard.encoded(row)
    try:
        decode.decode(data)
    except DataError as error:
        return str(error), b""
    return None, hashlib.sha256(data).digest()
