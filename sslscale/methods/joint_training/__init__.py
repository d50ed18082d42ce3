"""Settings of joint training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import MethodSettings
from sslscale.settings.streams import StreamSpec


@dataclass(frozen=True, kw_only=True)
class JointTraining(MethodSettings):
    """Labels and pseudo-labels learned together, the second loss scaled to the size of the first (Zoph et al. 2020,
    arXiv:2006.06882, section 3.3 and appendix C)."""

    name: Literal["joint_training"] = "joint_training"  # pyright: ignore[reportIncompatibleVariableOverride]
    unlabeled_ratio: int = 1
    weight: float = 1.0  # alpha of the pseudo-labels
    momentum: float = 0.999  # of the running means of both losses
    soft_labels: bool = True  # False: the teacher's most probable class
    label_smoothing: float = 0.0
    ema: float = 0.0
    version: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        require(self.unlabeled_ratio >= 1, "unlabeled_ratio", "must be 1 or more")
        require(self.weight >= 0, "weight", "must be 0 or more")
        require(0 <= self.momentum < 1, "momentum", "must lie in [0, 1)")
        require(0 <= self.label_smoothing < 1, "label_smoothing", "must lie in [0, 1)")
        require(0 <= self.ema < 1, "ema", "must lie in [0, 1)")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "its weights follow the losses of whole batches"

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        """Labelled images, and `unlabeled_ratio` times as many pseudo-labelled ones."""
        return (
            StreamSpec(name="labeled", source="labeled", fields=("label",)),
            StreamSpec(name="pseudo", source="pseudo", ratio=self.unlabeled_ratio, fields=("soft_label",)),
        )
