"""Settings of DINO."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import MethodSettings, MultiCrop


@dataclass(frozen=True, kw_only=True)
class DINO(MultiCrop):
    """DINO (Caron et al. 2021, arXiv:2104.14294): published with AdamW, lr 5e-4 * batch / 256, decay .04 to .4,
    gradients cut at 3 (each weight's by itself there, all together here), and 8 small crops (`views.local`).
    """

    name: Literal["dino"] = "dino"  # pyright: ignore[reportIncompatibleVariableOverride]
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04  # where it begins
    final_teacher_temperature: float = 0.07
    warmup_epochs: float = 30.0  # until it is there
    momentum: float = 0.996  # of the teacher, where it begins; it rises to 1 by a cosine
    center_momentum: float = 0.9
    prototypes: int = 65_536  # the head's outputs
    hidden: int = 2048
    bottleneck: int = 256
    norm: bool = False  # batch norm in the head, for ResNets
    freeze_last: float = 1.0  # epochs
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(0 <= self.momentum < 1, "momentum", "must lie in [0, 1)")
        require(0 <= self.center_momentum < 1, "center_momentum", "must lie in [0, 1)")
        require(self.warmup_epochs >= 0, "warmup_epochs", "must be 0 or more")
        require(self.freeze_last >= 0, "freeze_last", "must be 0 or more")
        require(self.student_temperature > 0, "student_temperature", "must be positive")
        require(self.teacher_temperature > 0, "teacher_temperature", "must be positive")
        require(self.final_teacher_temperature > 0, "final_teacher_temperature", "must be positive")
        require(self.prototypes > 0, "prototypes", "must be positive")
        require(self.hidden > 0, "hidden", "must be positive")
        require(self.bottleneck > 0, "bottleneck", "must be positive")

    def without_warmup(self) -> MethodSettings:
        """Without warm-ups and freezes, which the training before has had."""
        return replace(self, warmup_epochs=0.0, freeze_last=0.0)

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "its centre follows whole batches"
