"""Settings of judging a backbone by detection and segmentation: what is trained above it, and how long."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from sslscale.config import require
from sslscale.methods.detection import Detection
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.detection import DetectorConfig
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.train import OptimConfig, ScheduleConfig, TrainConfig

_ONCE = ScheduleConfig(name="step", milestones=(2 / 3, 8 / 9), warmup_steps=500)
_COSINE = ScheduleConfig(warmup_steps=1500)


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """A detector above the checkpoint's backbone. The defaults are COCO's 1x: 90,000 steps of 16 images (Lin et al.
    2017, arXiv:1612.03144; Wu et al. 2019, Detectron2), on canvases of `size` pixels instead of sides of 800 to 1,333.
    """

    detector: DetectorConfig = DetectorConfig()
    size: int = 800
    augment: AugmentConfig = AugmentConfig(crop="scale", factors=(0.8, 1.2), flip=True)
    optim: OptimConfig = OptimConfig(lr=0.02, nesterov=False, weight_decay=1e-4, schedule=_ONCE)
    batch_size: int = 16
    num_steps: int = 90_000

    def __post_init__(self) -> None:
        require(self.size > 0 and self.size % 32 == 0, "size", "must be a multiple of 32")
        require(self.batch_size > 0, "batch_size", "must be positive")
        require(self.num_steps > 0, "num_steps", "must be positive")

    def training(self, model: ModelConfig, image: ImageConfig, seed: int) -> TrainConfig:
        """The training of that network on this backbone."""
        return TrainConfig(
            method=Detection(detector=self.detector),
            model=model,
            image=dataclasses.replace(image, size=self.size, crop=1.0, short_side=None, width=None),
            augment=self.augment,
            optim=self.optim,
            batch_size=self.batch_size,
            num_steps=self.num_steps,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig(TransferConfig):
    """A segmentation network above the checkpoint's backbone. The defaults are DINOv3's linear probe
    (arXiv:2508.10104): a frozen backbone, 40,000 steps of 16 images of 512 pixels."""

    detector: DetectorConfig = DetectorConfig(name="linear", frozen=True)
    size: int = 512
    augment: AugmentConfig = AugmentConfig(crop="scale", factors=(0.5, 2.0), flip=True)
    optim: OptimConfig = OptimConfig(name="adamw", lr=0.001, weight_decay=0.001, schedule=_COSINE)
    num_steps: int = 40_000


@dataclass(frozen=True, kw_only=True)
class PatchKnnConfig:
    """Segmentation by the nearest patches, without training (CAPI, arXiv:2502.08769): each place of the backbone's last
    map has the class of most of its pixels; a place of a test image takes the class that most of its `k` nearest ones
    have, by cosine. `k` is chosen among several on a tenth of the training images. At most `places` are kept, drawn
    evenly from all training images; images are scaled to `size`, or to that of the checkpoint."""

    k: tuple[int, ...] = (1, 3, 10, 30)
    places: int = 200_000
    size: int | None = None
    split: str = "test"
    groups: int = 20
    batch_size: int = field(default=16, metadata={"identity": False})
    seed: int = field(default=0, metadata={"hidden": True})
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(len(self.k) > 0 and min(self.k) >= 1, "k", "must name numbers of 1 or more")
        require(self.places >= 100, "places", "must be 100 or more")
        require(self.size is None or (self.size > 0 and self.size % 2 == 0), "size", "must be even")
        require(self.groups == 0 or self.groups >= 5, "groups", "must be 0 (no intervals), or 5 or more")
        require(self.batch_size > 0, "batch_size", "must be positive")
