"""Settings of Mean Teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import SemiSupervised
from sslscale.settings.streams import ViewSpec


@dataclass(frozen=True, kw_only=True)
class MeanTeacher(SemiSupervised):
    """Mean Teacher (Tarvainen and Valpola 2017, arXiv:1703.01780): the running average of the weights sees another
    view, and the network shall agree with it. The average's share is `ema_ramp` while the weight rises and `ema`
    afterwards. Published with weight 100, a rise over 40,000 of 150,000 steps, and Adam.
    """

    name: Literal["mean_teacher"] = "mean_teacher"  # pyright: ignore[reportIncompatibleVariableOverride]
    unlabeled_weight: float = 100.0
    ramp: float = 40 / 150  # share of the training in which the weight rises, exp(-5 (1 - t)^2)
    ema_ramp: float = 0.99
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.ramp <= 1, "ramp", "is a share of the training, above 0 to 1")
        require(self.ema > 0, "ema", "must be above 0: the average is the teacher")
        require(0 <= self.ema_ramp < 1, "ema_ramp", "must lie in [0, 1)")

    @property
    def unlabeled_views(self) -> tuple[ViewSpec, ...]:
        """The views of an unlabelled image."""
        return (ViewSpec("weak", 2),)
