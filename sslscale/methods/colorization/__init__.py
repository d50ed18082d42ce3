"""Settings of colorization."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import Pretext
from sslscale.settings.model import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Colorization(Pretext):
    """Colorization (Zhang et al. 2016, arXiv:1603.08511): the distribution of each place's colour, from its lightness.
    Published with Adam, lr 3e-5, beta2 .99, decay 1e-3, batches of 40, images of 176 pixels.

    The network sees lightness in all three channels, which its first layer therefore weighs alike: colour images then
    give what their mean of the channels gives. How often each colour comes is counted while training, not before.
    """

    name: Literal["colorization"] = "colorization"  # pyright: ignore[reportIncompatibleVariableOverride]
    stride: int = 4  # pixels from one place whose colour is predicted to the next
    neighbours: int = 5  # nearest bins among which a colour is shared out (the authors' code: 10)
    sigma: float = 5.0
    rebalance: float = 0.5  # lambda: 0 weighs colours by their rarity alone, 1 all alike
    temperature: float = 0.38  # of the colours in the figure
    hidden: int = 256
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.stride > 0, "stride", "must be positive")
        require(1 <= self.neighbours <= 50, "neighbours", "must lie between 1 and 50")
        require(self.sigma > 0, "sigma", "must be positive")
        require(0 < self.rebalance <= 1, "rebalance", "must lie in (0, 1]")
        require(0 < self.temperature <= 1, "temperature", "must lie in (0, 1]")
        require(self.hidden > 0, "hidden", "must be positive")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "it weighs colours by how often they have come, counted over whole batches"

    def unsupported_model(self, model: ModelConfig, size: int) -> str | None:
        """It needs features of each place."""
        if model.name.startswith(("timm:", "vit_")):
            return f"{self.name} needs a map of features, which {model.name} does not give: take a resnet_ or wrn_"
        return None
