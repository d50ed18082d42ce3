"""Settings of ReCLIP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require


@dataclass(frozen=True, kw_only=True)
class ReclipConfig:
    """ReCLIP (Hu et al. 2024, arXiv:2308.03793): an image and a text tower adapt to unlabelled images of given classes.

    Labels spread from the class names over a graph of `neighbors` nearest images, in a space without the direction that
    all class names share (`project`), of which `directions` are kept (null: all, and 250 of more than 500 classes). Two
    copies learn from them by their norms' weights alone: `vision` those of the image tower, its classes the centroids
    of its pseudo-labels; `text` those of the text tower, its classes the names in the first template. With `agreement`
    they learn from images on which both agree. A prediction is the mean of both. `epochs` null is the paper's number,
    2 + images / 5,000, 100 at most; the last one counts, whereas the authors' code reports the best by test labels.
    """

    splits: tuple[Literal["labeled", "unlabeled"], ...] = ("labeled", "unlabeled")  # read without their labels
    project: bool = True
    directions: int | None = None
    neighbors: int = 20
    alpha: float = 0.99
    agreement: bool = True
    branches: tuple[Literal["vision", "text"], ...] = ("vision", "text")
    epochs: int | None = None
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 64
    seed: int = field(default=0, metadata={"hidden": True})
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(len(self.splits) > 0, "splits", "must name at least one")
        require(self.directions is None or self.directions >= 2, "directions", "must be 2 or more")
        require(self.neighbors > 0, "neighbors", "must be positive")
        require(0 < self.alpha < 1, "alpha", "must lie between 0 and 1")
        require(len(set(self.branches)) == len(self.branches) > 0, "branches", "are vision, text, or both")
        require(self.epochs is None or self.epochs >= 0, "epochs", "must be 0 or more")
        require(self.lr > 0, "lr", "must be positive")
        require(0 <= self.momentum < 1, "momentum", "must lie in [0, 1)")
        require(self.weight_decay >= 0, "weight_decay", "must be 0 or more")
        require(self.batch_size > 0, "batch_size", "must be positive")

    def num_epochs(self, images: int) -> int:
        """How many passes over so many images."""
        return min(100, images // 5000 + 2) if self.epochs is None else self.epochs

    def kept(self, num_classes: int) -> int:
        """How many principal directions of the class names are looked at, the first among them."""
        if self.directions is not None:
            return self.directions
        return 250 if num_classes > 500 else num_classes
