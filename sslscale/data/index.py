"""The index of a folder of shards: how many samples, how many bytes and which checksum each shard must have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sslscale.errors import DataError
from sslscale.storage import jsonio, sums

INDEX = "index.json"
FORMAT = "sslscale-shards/2"
_UNSEALED = "sslscale-shards/1"  # of before the index had a sum of its own


class ShardInfo(NamedTuple):
    """What the index says of one shard."""

    file: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """The index of a folder of shards."""

    folder: Path
    shards: tuple[ShardInfo, ...]
    classes: tuple[str, ...]

    @property
    def num_samples(self) -> int:
        """Samples in all shards."""
        return sum(shard.samples for shard in self.shards)


def read_index(folder: str | Path) -> Index:
    """Read a folder's index.json; raises DataError if it is not there or not ours."""
    folder = Path(folder)
    try:
        data = jsonio.read_json(sums.checked(folder / INDEX))
        if data["format"] != _UNSEALED or jsonio.SUM in data:
            data = jsonio.unsealed(data)
        if data["format"] not in (FORMAT, _UNSEALED):
            raise DataError(f"{folder / INDEX}: format {data['format']!r} is not {FORMAT!r}")
        shards = tuple(ShardInfo(**shard) for shard in data["shards"])
        if any(Path(shard.file).name != shard.file for shard in shards):
            raise DataError(f"{folder / INDEX}: a shard lies outside its folder")
        return Index(folder, shards, tuple(data["classes"]))
    except FileNotFoundError:
        raise DataError(f"{folder}: no {INDEX} there; make shards with: sslscale data pack SRC {folder}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / INDEX}: unreadable index ({error})") from None


def write_index(folder: Path, shards: Iterable[ShardInfo], classes: Iterable[str]) -> Index:
    """Write index.json, which makes the shards a finished set."""
    index = Index(folder, tuple(shards), tuple(classes))
    jsonio.write_json(
        folder / INDEX,
        jsonio.sealed(
            {
                "format": FORMAT,
                "num_samples": index.num_samples,
                "classes": list(index.classes),
                "shards": [shard._asdict() for shard in index.shards],
            }
        ),
    )
    return index


def as_json(index: Index) -> Mapping[str, Any]:
    """What identifies the content of a set of shards."""
    return {"classes": list(index.classes), "shards": [[s.file, s.samples, s.sha256] for s in index.shards]}
