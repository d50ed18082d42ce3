"""Settings of probing a representation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """What frozen features of a backbone are worth: kNN (k 200, temperature .07; .1 on CIFAR) and a linear classifier.

    Both learn from the labelled images, without augmentation, and are measured on `split`.
    """

    protocols: tuple[Literal["knn", "linear"], ...] = ("knn", "linear")
    k: int = 200
    temperature: float = 0.1
    split: str = "test"
    batch_size: int = field(default=500, metadata={"identity": False})
    on_bad_sample: Literal["error", "skip"] = "error"
    seed: int = field(default=0, metadata={"hidden": True})
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(len(self.protocols) > 0, "protocols", "must name at least one of knn, linear")
        require(self.k > 0, "k", "must be positive")
        require(self.temperature > 0, "temperature", "must be positive")
        require(self.batch_size > 0, "batch_size", "must be positive")
