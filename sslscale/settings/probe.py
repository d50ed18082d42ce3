"""Settings of probing a representation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Protocols that measure the frozen features of a backbone on `split`.

    knn (k 200, temperature .07; .1 on CIFAR), linear (logistic regression by L-BFGS) and sgd (`epochs` of SGD, several
    learning rates at once) learn from the labelled images, without augmentation. retrieval searches among the images
    of `split`; clustering runs k-means on them.
    """

    protocols: tuple[Literal["knn", "linear", "sgd", "retrieval", "clustering"], ...] = ("knn", "linear")
    k: int = 200
    temperature: float = 0.1
    epochs: int = 100
    split: str = "test"
    seed: int = field(default=0, metadata={"hidden": True})
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(len(self.protocols) > 0, "protocols", "names none: knn, linear, sgd, retrieval, clustering")
        require(self.k > 0, "k", "must be positive")
        require(self.temperature > 0, "temperature", "must be positive")
        require(self.epochs > 0, "epochs", "must be positive")


@dataclass(frozen=True, kw_only=True)
class LayerwiseConfig:
    """A linear classifier on each layer, on its feature map pooled to at most `max_features` numbers (VISSL: about
    9,000).

    It is trained on at most `max_images` labelled images.
    """

    max_features: int = 1024
    max_images: int = 50_000
    split: str = "test"
    batch_size: int = field(default=500, metadata={"identity": False})
    seed: int = field(default=0, metadata={"hidden": True})
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.max_features > 0, "max_features", "must be positive")
        require(self.max_images > 0, "max_images", "must be positive")
        require(self.batch_size > 0, "batch_size", "must be positive")
