"""Settings of features and of clusters of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require

TRAINING_SPLITS = ("labeled", "unlabeled")


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """Which images a network is applied to, without augmentation. Splits that the data set lacks are skipped.

    With `patches` (a square number), the features of an image are the mean over that many evenly spread patches. Each
    covers `patch_area` of the image and is scaled to `patch_size` pixels (EMP-SSL, arXiv:2304.03977, section 3).
    """

    splits: tuple[str, ...] = (*TRAINING_SPLITS, "test")
    output: Literal["features", "logits"] = "features"  # logits: what a classifier says, for offline distillation
    patches: int = 0
    patch_area: float = 0.25
    patch_size: int | None = None  # None: the network's image size
    batch_size: int = field(default=500, metadata={"identity": False})
    precision: Literal["fp32", "bf16"] = field(default="fp32", metadata={"new": True})
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(len(self.splits) > 0, "splits", "must name at least one split")
        require(self.patches >= 0 and math.isqrt(self.patches) ** 2 == self.patches, "patches", "must be a square")
        require(self.output == "features" or not self.patches, "patches", "are for features, not for logits")
        require(0 < self.patch_area <= 1, "patch_area", "must lie in (0, 1]")
        require(self.patch_size is None or self.patch_size > 0, "patch_size", "must be positive")
        require(self.batch_size > 0, "batch_size", "must be positive")


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """How many images of a split get a map of their class token's attention (ViTs only)."""

    images: int = 6
    split: str = "test"
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.images > 0, "images", "must be positive")


@dataclass(frozen=True, kw_only=True)
class KMeansConfig:
    """k-means on the features of the training images (ClusterFit, arXiv:1912.03330, section 3: K 16,000 on ImageNet).

    `normalize` scales features to length 1, `spherical` the centroids too. `init` draws the first centroids from
    `sample` rows per centroid, uniformly or by k-means++. `minibatch` is the share of the images used by one
    iteration; below 1, a centroid moves to the mean of all rows it was ever assigned (Sculley 2010). The iterations
    end when the inertia falls by less than `tolerance` relative to itself.
    """

    k: int
    num_iterations: int = 50
    init: Literal["sample", "k-means++"] = "sample"
    sample: int = 64
    normalize: bool = True
    spherical: bool = False
    minibatch: float = 1.0
    tolerance: float = 1e-4
    splits: tuple[str, ...] = TRAINING_SPLITS
    seed: int = field(default=0, metadata={"hidden": True})
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.k > 1, "k", "must be 2 or more")
        require(self.num_iterations > 0, "num_iterations", "must be positive")
        require(self.sample > 0, "sample", "must be positive")
        require(0 < self.minibatch <= 1, "minibatch", "must lie in (0, 1]")
        require(self.tolerance >= 0, "tolerance", "must be 0 or more")
        require(len(self.splits) > 0, "splits", "must name at least one split")
