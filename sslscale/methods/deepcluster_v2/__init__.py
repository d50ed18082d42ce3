"""Settings of DeepCluster v2."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import MultiCrop


@dataclass(frozen=True, kw_only=True)
class DeepClusterV2(MultiCrop):
    """DeepCluster v2 (Caron et al. 2020, arXiv:2006.09882, section 4.1 and appendix D.5): published with SwAV's recipe,
    LARS, lr .3 * batch / 256, and crops of two sizes (`views.local` of the training).

    Every crop of an image is to be classified as the cluster of the image; each of `heads` classifiers has `prototypes`
    clusters of its own. Clusters are found anew at the beginning of each epoch, by spherical k-means of the embeddings
    that the images' first two views had in the epoch before. The first epoch fills that memory, and the weights stay.
    """

    name: Literal["deepcluster_v2"] = "deepcluster_v2"  # pyright: ignore[reportIncompatibleVariableOverride]
    temperature: float = 0.1
    heads: int = 3
    prototypes: int = 3000  # of each head
    iterations: int = 10  # of k-means
    hidden: int = 2048  # of the projector
    projection: int = 128
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.temperature > 0, "temperature", "must be positive")
        for name in ("heads", "prototypes", "iterations", "hidden", "projection"):
            require(getattr(self, name) > 0, name, "must be positive")
