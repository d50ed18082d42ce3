"""Settings of supervised training, which makes Noisy Student's first teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import MethodSettings
from sslscale.settings.streams import StreamSpec


@dataclass(frozen=True, kw_only=True)
class Supervised(MethodSettings):
    """Cross-entropy on labelled images, with label smoothing and an average of the weights (0: none).

    `mixup` and `cutmix` are the alphas of Beta(alpha, alpha) (0: none; arXiv:1710.09412, arXiv:1905.04899); with both,
    each batch takes one by chance. `adversarial` is the weight of the loss of images that were changed by `epsilon` so
    as to raise it: along the gradient's sign, or the gradient itself scaled to length 1 (arXiv:1412.6572, section 6,
    where it is .5); epsilon is in units of the normalised image. `label_noise` replaces this share of the labels by
    any class, an image's the same in every epoch: for experiments on noisy labels.
    """

    name: Literal["supervised"] = "supervised"  # pyright: ignore[reportIncompatibleVariableOverride]
    label_smoothing: float = 0.1
    ema: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    adversarial: float = 0.0
    epsilon: float = 0.03
    norm: Literal["linf", "l2"] = "linf"
    label_noise: float = field(default=0.0, metadata={"new": True})
    version: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        require(0 <= self.label_smoothing < 1, "label_smoothing", "must lie in [0, 1)")
        require(0 <= self.ema < 1, "ema", "must lie in [0, 1)")
        require(self.mixup >= 0, "mixup", "must be 0 or more")
        require(self.cutmix >= 0, "cutmix", "must be 0 or more")
        require(0 <= self.adversarial < 1, "adversarial", "must lie in [0, 1)")
        require(self.epsilon > 0, "epsilon", "must be positive")
        require(0 <= self.label_noise < 1, "label_noise", "must lie in [0, 1)")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "mixup and cutmix mix the images of a batch with one another" if self.mixup or self.cutmix else ""

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        """Labelled images."""
        return (StreamSpec(name="labeled", source="labeled", fields=("label",)),)
