"""Settings of unsupervised data augmentation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import SemiSupervised


@dataclass(frozen=True, kw_only=True)
class UDA(SemiSupervised):
    """Unsupervised data augmentation (Xie et al. 2020, arXiv:1904.12848): a strong view shall be predicted as the weak
    one, sharpened, where that is confident. `tsa` leaves out labelled images that are known too well: their
    probability is above a bound that rises to 1 (training signal annealing).
    """

    name: Literal["uda"] = "uda"  # pyright: ignore[reportIncompatibleVariableOverride]
    unlabeled_ratio: int = 7
    temperature: float = 0.4
    threshold: float = 0.8
    tsa: Literal["none", "log", "linear", "exp"] = "none"
    version: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, "temperature", "must be positive")
        require(0 <= self.threshold <= 1, "threshold", "must lie between 0 and 1")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "" if self.tsa == "none" else "tsa divides the loss by the labelled images of a batch that count"
