"""Settings of augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sslscale.config import require

OPERATIONS = (
    "autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "color", "contrast", "brightness",
    "sharpness", "shear_x", "shear_y", "translate_x", "translate_y", "solarize_add", "cutout",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RandAugmentConfig:
    """RandAugment(num_ops, magnitude). Noisy Student (arXiv:1911.04252, 4.1): 2 operations at magnitude 27.

    `translate` and `cutout` are the moves at magnitude 10, as shares of the image's side: the authors' code has 100
    and 40 pixels of 224 for ImageNet, and side / 8 for both on 32 x 32 images.
    """

    num_ops: int = 2
    magnitude: float = 27.0
    operations: tuple[str, ...] = OPERATIONS
    translate: float = 100 / 224
    cutout: float = 40 / 224

    def __post_init__(self) -> None:
        require(self.num_ops >= 1, "num_ops", "must be 1 or more; leave randaugment out to switch it off")
        require(self.magnitude >= 0, "magnitude", "must be 0 or more")
        for name in self.operations:
            require(name in OPERATIONS, "operations", f"{name!r} is not one of {', '.join(OPERATIONS)}")
        require(len(self.operations) > 0, "operations", "must name at least one operation")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What happens to a training image: crop, flip, RandAugment, a last cutout (side, as a share of the image's)."""

    crop: Literal["none", "pad", "resized"] = "none"
    padding: int = 4  # for crop: pad
    scale: tuple[float, float] = (0.08, 1.0)  # for crop: resized, as shares of the area
    flip: bool = False
    randaugment: RandAugmentConfig | None = None
    cutout: float = 0.0

    def __post_init__(self) -> None:
        require(self.padding >= 0, "padding", "must be 0 or more")
        require(0 < self.scale[0] <= self.scale[1] <= 1, "scale", "must be two shares of the area, low then high")
        require(0 <= self.cutout <= 1, "cutout", "must lie between 0 and 1")
