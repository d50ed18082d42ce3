"""Settings of scoring, selecting and evaluating."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.errors import ConfigError

_MANY, _FEW = 100, 10  # classes of which all are kept, and how many are of more


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """How a teacher scores images.

    Of each distribution the `top_k` most probable classes are kept, and the rest of the mass is spread evenly over the
    others; 0 keeps all classes. null keeps all of up to 100 classes, and 10 of more: of 10 million images with 1,000
    classes, all would take 40 GB.
    """

    batch_size: int = field(default=500, metadata={"identity": False})
    precision: Literal["fp32", "bf16"] = field(default="fp32", metadata={"new": True})
    top_k: int | None = None
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.batch_size > 0, "batch_size", "must be positive")
        require(self.top_k is None or self.top_k >= 0, "top_k", "must be 0 (all) or more")

    def kept(self, num_classes: int) -> int:
        """How many classes of each distribution are kept."""
        if self.top_k is None:
            return num_classes if num_classes <= _MANY else _FEW
        return min(self.top_k or num_classes, num_classes)


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """Which images a student learns from, and how often.

    `balance`: `paper` takes the `per_class` most confident images of each class and repeats them where there are fewer
    (arXiv:1911.04252, section 4.1). `code` does what the authors' filter_unlabel.py does: a threshold for each class
    from a grid of .01, never below `threshold`, and each image per_class / count times (the fraction at random).
    `none` takes every image above the threshold once. `per_class` is 130,000 for ImageNet.

    Self-training can fail by its own labels: one class takes over, or each teacher says something else than the last.
    If the entropy of the teacher's classes is below `least_entropy` of that of the labelled images' classes, or fewer
    than `least_agreement` of the images keep the class of the last round, `on_collapse` warns, or is an error, which
    ends the run with the teacher as the last result.
    """

    threshold: float = 0.3
    balance: Literal["paper", "code", "none"] = "paper"
    per_class: int | None = None  # None: the mean over the classes of the images above the threshold
    on_empty_class: Literal["error", "warn"] = "error"
    on_collapse: Literal["warn", "error", "ignore"] = field(default="warn", metadata={"new": True})
    least_entropy: float = field(default=0.7, metadata={"new": True})
    least_agreement: float = field(default=0.5, metadata={"new": True})
    shard_size: int = 1000
    seed: int = field(default=0, metadata={"hidden": True})
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(0 <= self.threshold < 1, "threshold", "must lie in [0, 1)")
        require(self.per_class is None or self.per_class > 0, "per_class", "must be positive")
        for name in ("least_entropy", "least_agreement"):
            require(0 <= getattr(self, name) <= 1, name, "must lie in [0, 1]")
        require(self.shard_size > 0, "shard_size", "must be positive")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How a checkpoint is measured.

    If the split holds only some of the checkpoint's classes (ImageNet-A: 200 of 1,000), the prediction is the most
    probable of those. `class_map` lists pairs (class of the data, class of the checkpoint) where the names differ.
    """

    split: str = "test"
    class_map: tuple[tuple[str, str], ...] = ()
    batch_size: int = field(default=500, metadata={"identity": False})
    precision: Literal["fp32", "bf16"] = field(default="fp32", metadata={"new": True})
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.batch_size > 0, "batch_size", "must be positive")


def read_class_map(file: str | None) -> tuple[tuple[str, str], ...]:
    """The lines of a CSV, each a class of the data and a class of the checkpoint; none without a file."""
    if file is None:
        return ()
    try:
        with open(file, newline="", encoding="utf-8") as text:
            rows = [tuple(cell.strip() for cell in row) for row in csv.reader(text) if row]
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    wrong = [row for row in rows if len(row) != 2]
    if wrong:
        raise ConfigError(f"{file}: every line is a class of the data and a class of the checkpoint, not {wrong[0]}")
    return tuple((row[0], row[1]) for row in rows)
