"""Settings of augmentation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require

OPERATIONS = (
    "autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "color", "contrast", "brightness",
    "sharpness", "shear_x", "shear_y", "translate_x", "translate_y", "solarize_add", "cutout",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RandAugmentConfig:
    """RandAugment(num_ops, magnitude). Noisy Student (arXiv:1911.04252, 4.1): 2 operations at magnitude 27.

    `translate` and `cutout` are the sizes at magnitude 10, as shares of the image's side: the authors' code uses 100
    and 40 of 224 pixels for ImageNet, and side / 8 for both on 32 x 32 images.
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
class JitterConfig:
    """Colour jitter as torchvision defines it: factors from 1 - x to 1 + x, hue from -x to x turns, in random order.

    The defaults are SimCLR's at strength 1 (arXiv:2002.05709, appendix A); on CIFAR-10 it uses half of each.
    """

    p: float = 0.8
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2

    def __post_init__(self) -> None:
        require(0 < self.p <= 1, "p", "must lie in (0, 1]; leave jitter out to switch it off")
        for name in ("brightness", "contrast", "saturation"):
            require(getattr(self, name) >= 0, name, "must be 0 or more")
        require(0 <= self.hue <= 0.5, "hue", "must lie between 0 and 0.5")


@dataclass(frozen=True, kw_only=True)
class BlurConfig:
    """Gaussian blur: sigma (pixels) is uniform in its range; the kernel is a share of the side (SimCLR: a tenth)."""

    p: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)
    kernel: float = 0.1

    def __post_init__(self) -> None:
        require(0 < self.p <= 1, "p", "must lie in (0, 1]; leave blur out to switch it off")
        require(0 < self.sigma[0] <= self.sigma[1], "sigma", "must be two positive numbers, low then high")
        require(0 < self.kernel < 1, "kernel", "must lie between 0 and 1")

    def pixels(self, size: int) -> int:
        """The kernel's width for images of this side: odd, 3 or more."""
        return max(2 * (int(self.kernel * size) // 2) + 1, 3)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How one view of a training image is made. The order is: crop, flip, jitter, grayscale, blur, solarize, equalize,
    RandAugment, cutout (its side as a share of the image's), random erasing.

    `crop: scale` is for images with annotated objects: an image is scaled by a random one of `factors`, cut at a random
    place if it is then larger than the view, and filled up with the mean colour if it is smaller. (0.8, 1.2) is usual,
    (0.1, 2.0) large-scale jittering (arXiv:2012.07177). `autoaugment` is the policy v0 for images with boxes
    (arXiv:1906.11172), before the flip.

    A number named after an operation is the operation's probability. `size` is the side of the view if it is not the
    network's (multi-crop). `count` is the number of such views per image (multi-crop's local crops, EMP-SSL's
    patches).
    """

    crop: Literal["none", "pad", "resized", "scale"] = "none"
    padding: int = 4  # for crop: pad
    scale: tuple[float, float] = (0.08, 1.0)  # for crop: resized, as shares of the area
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # for crop: resized, width over height
    # for crop: scale, as factors of the size at which an image with objects fits its canvas
    factors: tuple[float, float] = field(default=(0.8, 1.2), metadata={"new": True})
    autoaugment: bool = field(default=False, metadata={"new": True})  # for crop: scale, the policy for boxes
    flip: bool = False
    jitter: JitterConfig | None = None
    grayscale: float = 0.0
    blur: BlurConfig | None = None
    solarize: float = 0.0  # at a threshold of 128
    equalize: float = 0.0
    randaugment: RandAugmentConfig | None = None
    cutout: float = 0.0
    erase: float = 0.0
    size: int | None = None
    count: int = 1

    def __post_init__(self) -> None:
        require(self.padding >= 0, "padding", "must be 0 or more")
        require(
            not self.autoaugment or self.crop == "scale", "autoaugment", "is for crop: scale, of images with objects"
        )
        require(0 < self.factors[0] <= self.factors[1], "factors", "must be two positive numbers, low then high")
        require(0 < self.scale[0] <= self.scale[1] <= 1, "scale", "must be two shares of the area, low then high")
        require(0 < self.ratio[0] <= self.ratio[1], "ratio", "must be two positive numbers, low then high")
        for name in ("grayscale", "solarize", "equalize", "erase", "cutout"):
            require(0 <= getattr(self, name) <= 1, name, "must lie between 0 and 1")
        require(self.size is None or self.size > 0, "size", "must be positive")
        require(self.size is None or self.crop == "resized", "size", "a view of its own size needs crop: resized")
        require(self.count > 0, "count", "must be 1 or more")
