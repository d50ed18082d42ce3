"""Settings of self-training for detection and segmentation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.kinds import Scenes
from sslscale.settings.streams import StreamSpec


@dataclass(frozen=True, kw_only=True)
class DetectionSelfTraining(Scenes):
    """Annotations and a teacher's boxes learned together, the second loss scaled to the size of the first (Zoph et al.
    2020, arXiv:2006.06882, section 3.3 and appendix C): L = (L_h + alpha (mean L_h / mean L_p) L_p) / (1 + alpha), with
    running means."""

    name: Literal["detection_self_training"] = "detection_self_training"  # pyright: ignore[reportIncompatibleVariableOverride]
    unlabeled_ratio: int = 1
    weight: float = 1.0  # alpha of the pseudo-boxes
    momentum: float = 0.999  # of the running means of both losses
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.unlabeled_ratio >= 1, "unlabeled_ratio", "must be 1 or more")
        require(self.weight >= 0, "weight", "must be 0 or more")
        require(0 <= self.momentum < 1, "momentum", "must lie in [0, 1)")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "its weights follow the losses of whole batches"

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        """Annotated images, and `unlabeled_ratio` times as many with a teacher's boxes."""
        ratio = self.unlabeled_ratio
        return *super().streams, StreamSpec(name="pseudo", source="pseudo", ratio=ratio, fields=self.fields)
