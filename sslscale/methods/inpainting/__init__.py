"""Settings of inpainting."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import Pretext
from sslscale.settings.model import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Inpainting(Pretext):
    """Context encoders (Pathak et al. 2016, arXiv:1604.07379): a region of the image from what is around it. Published
    with Adam, beta1 .5, batches of 64, images of 128 pixels; the features that the authors judge are of the squared
    error alone.

    `centre` hides the middle, half as wide as the image; a rim of `overlap` of it stays seen, and is predicted too, at
    ten times the weight. `random` hides a quarter of the pixels in blots, the same for the images of a batch. Where
    nothing is seen the mean colour stands. `adversarial` adds that loss with this weight (published: .001), and takes
    as much from the squared error's; its network learns at the rate of the others, the authors' at a tenth of it.
    """

    name: Literal["inpainting"] = "inpainting"  # pyright: ignore[reportIncompatibleVariableOverride]
    region: Literal["centre", "random"] = "centre"
    overlap: float = 4 / 64
    adversarial: float = 0.0
    width: int = 512  # of the decoder
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(0 <= self.overlap < 0.5, "overlap", "must be a share of the region below a half")
        require(0 <= self.adversarial < 1, "adversarial", "must lie in [0, 1)")
        require(self.width > 0, "width", "must be positive")

    def unsupported_model(self, model: ModelConfig, size: int) -> str | None:
        """It needs features of each place."""
        if model.name.startswith(("timm:", "vit_")):
            return f"{self.name} needs a map of features, which {model.name} does not give: take a resnet_ or wrn_"
        return f"image.size: {size} is not a multiple of 4" if size % 4 else None
