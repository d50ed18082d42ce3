"""The kinds of result that a stage leaves behind. An artifact is a directory; its fields are kept in record.json.

An artifact without a record does not exist: the record is written last, in one rename.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A finished directory. `metrics` are the few numbers worth showing in a list; values must be plain JSON."""

    path: str
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def dir(self) -> Path:
        """The directory as a Path."""
        return Path(self.path)


@dataclass(frozen=True, kw_only=True)
class Dataset(Artifact):
    """Packed images: one folder of shards for each split, e.g. labeled, unlabeled, val, test."""

    num_samples: Mapping[str, int]
    classes: tuple[str, ...]

    def split(self, name: str) -> Path:
        """The folder of one split's shards (it holds index.json)."""
        return self.dir / name


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Artifact):
    """A trained network: model.safetensors and model.json."""

    num_parameters: int
    step: int


@dataclass(frozen=True, kw_only=True)
class Scores(Artifact):
    """A teacher's predictions: scores-%06d.parquet, one file a shard, one row a sample, in shard order."""

    num_samples: int


@dataclass(frozen=True, kw_only=True)
class Selection(Artifact):
    """Which samples a student sees, how often and with which label: selection-%06d.parquet, one file a shard."""

    num_samples: int
    accounting: Mapping[str, int]
    shard_size: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class ShardSet(Artifact):
    """Shards of one split that a stage wrote, with their index.json."""

    num_samples: int


@dataclass(frozen=True, kw_only=True)
class Embeddings(Artifact):
    """A network's features of the images of some splits: SPLIT/features-%06d.npy, one file a shard."""

    num_samples: Mapping[str, int]
    dim: int


@dataclass(frozen=True, kw_only=True)
class Captions(Artifact):
    """Tokens of the captions of the images of some splits: SPLIT/features-%06d.npy, one file a shard."""

    num_samples: Mapping[str, int]
    context: int
    accounting: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Transcripts(Artifact):
    """Characters of the labelled lines' transcripts: labeled/features-%06d.npy, one file a shard."""

    alphabet: tuple[str, ...]
    longest: int
    accounting: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Spectrograms(Artifact):
    """Log-mel spectrograms of the clips of some splits: SPLIT/features-%06d.npy, one file a shard."""

    num_clips: Mapping[str, int]
    mels: int
    accounting: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Detections(Artifact):
    """What a detector found in unlabelled images: objects-%06d.jsonl, one file a shard, one line an image."""

    num_images: int
    accounting: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Suggestions(Artifact):
    """Unlabelled images to label next: suggestions.csv, numbers.npy, suggestions.html."""

    by: str


@dataclass(frozen=True, kw_only=True)
class Clusters(Artifact):
    """Centroids (centroids.npy) and the cluster of each image: SPLIT/clusters-%06d.npy, one file a shard."""

    k: int
    splits: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Report(Artifact):
    """Numbers (in `metrics`), tables and figures for a person to read."""


def to_fields(artifact: Artifact) -> dict[str, Any]:
    """Plain JSON fields of an artifact, its path left out: artifacts may be moved with their root."""
    fields = {f.name: getattr(artifact, f.name) for f in dataclasses.fields(artifact) if f.name != "path"}
    return {name: dict(v) if isinstance(v, Mapping) else v for name, v in fields.items()}


def from_fields(kind: str, path: str | os.PathLike[str], fields: Mapping[str, Any]) -> Artifact:
    """Rebuild the artifact of a record; raises KeyError for an unknown kind."""
    kinds = {cls.__name__: cls for cls in (Artifact, *Artifact.__subclasses__())}
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    return kinds[kind](path=os.fspath(path), **values)
