"""Settings of detectors and of segmentation: what stands above a backbone, and how it is judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require

INSTANCES = ("mask_rcnn",)  # detectors that give masks
SEMANTIC = ("fcn", "linear")  # heads that give each pixel a class


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """What stands above the backbone.

    `faster_rcnn`, `mask_rcnn`, `retinanet` and `fcos` are torchvision's, over a feature pyramid of `width` channels
    (Lin et al. 2017, arXiv:1612.03144) with strides 4 to 64; a vision transformer's one map is scaled to these strides
    (ViTDet, arXiv:2203.16527). `fcn` gives each pixel a class by the two convolutions of torchvision's FCN over the sum
    of the pyramid's maps, `linear` by one layer over the backbone's last map.

    `hidden` is the width of the box head, which sees `proposals` regions of an image and learns from `sampled` of them;
    so many anchors, 256 at most, teach the first stage. Anchors have `anchor` times the stride of their level as their
    side. A box is shown if its score reaches `min_score`. `dropout` is before the last layer of `fcn` and `linear`.
    With `frozen` the backbone stays as it is, its batch norms too.
    """

    name: Literal["faster_rcnn", "mask_rcnn", "retinanet", "fcos", "fcn", "linear"] = "faster_rcnn"
    width: int = 256
    hidden: int = 1024
    proposals: int = 1000
    sampled: int = 512
    anchor: float = 8.0
    min_score: float = 0.05
    dropout: float = 0.1
    frozen: bool = False

    def __post_init__(self) -> None:
        multiple = 32 if self.name == "fcos" else 8  # of its group norms
        require(self.width > 0 and self.width % multiple == 0, "width", f"must be a multiple of {multiple}")
        for name in ("hidden", "proposals", "sampled"):
            require(getattr(self, name) >= 1, name, "must be 1 or more")
        require(self.anchor > 0, "anchor", "must be positive")
        require(0 <= self.dropout < 1, "dropout", "must lie in [0, 1)")
        require(0 <= self.min_score < 1, "min_score", "must lie in [0, 1)")

    @property
    def semantic(self) -> bool:
        """Whether it gives each pixel a class, and no boxes."""
        return self.name in SEMANTIC

    @property
    def instances(self) -> bool:
        """Whether it gives masks of objects."""
        return self.name in INSTANCES


@dataclass(frozen=True, kw_only=True)
class DetectConfig:
    """How a detector is judged on the images of a split: by COCO's average precision, of boxes and of masks, or a
    network that gives each pixel a class by its mean intersection over union (mIoU).

    Intervals are of a jackknife that leaves out one of `groups` groups of the images after the other. `shown` scenes
    are drawn, with what was found in them.
    """

    split: str = "test"
    groups: int = 20
    shown: int = 8
    batch_size: int = field(default=16, metadata={"identity": False})
    seed: int = field(default=0, metadata={"hidden": True})
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.groups == 0 or self.groups >= 5, "groups", "must be 0 (no intervals), or 5 or more")
        require(self.shown >= 1, "shown", "must be 1 or more")
        require(self.batch_size > 0, "batch_size", "must be positive")


@dataclass(frozen=True, kw_only=True)
class PseudoBoxConfig:
    """What a detector finds in the unlabelled images: boxes, and masks, whose score reaches `threshold` (Zoph et al.
    2020, arXiv:2006.06882: .5). Images in which nothing is found stay, as ground without objects."""

    threshold: float = 0.5
    batch_size: int = field(default=16, metadata={"identity": False})
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(0 < self.threshold < 1, "threshold", "must lie in (0, 1)")
        require(self.batch_size > 0, "batch_size", "must be positive")
