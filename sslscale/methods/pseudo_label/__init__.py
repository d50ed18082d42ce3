"""Settings of Pseudo-Label."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import WEAK, SemiSupervised
from sslscale.settings.streams import ViewSpec


@dataclass(frozen=True, kw_only=True)
class PseudoLabel(SemiSupervised):
    """Pseudo-Label (Lee 2013): the most probable class is taken for the truth. The weight rises in a line from 0 to 3
    between two moments, `ramp` (shares of the training; the paper: its epochs 100 and 600).
    """

    name: Literal["pseudo_label"] = "pseudo_label"  # pyright: ignore[reportIncompatibleVariableOverride]
    unlabeled_weight: float = 3.0
    threshold: float = 0.95  # probability below which an image does not count; 0 as in the paper
    ramp: tuple[float, float] = (0.1, 0.6)
    version: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.threshold <= 1, "threshold", "must lie between 0 and 1")
        require(0 <= self.ramp[0] < self.ramp[1] <= 1, "ramp", "must be two shares of the training, low then high")

    @property
    def unlabeled_views(self) -> tuple[ViewSpec, ...]:
        """The views of an unlabelled image."""
        return (WEAK,)
