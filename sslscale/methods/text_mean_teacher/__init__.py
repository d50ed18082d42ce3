"""Settings of Mean Teacher on lines of text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.kinds import ComparedColumns


@dataclass(frozen=True, kw_only=True)
class TextMeanTeacher(ComparedColumns):
    """Mean Teacher (arXiv:1703.01780) on CTC's columns, as STR-Fewer-Labels has it (arXiv:2103.04400).

    The running average of the weights, min(1 - 1 / (step + 1), ema), reads another view of labelled and unlabelled
    lines, and the network shall agree with it column by column: squares between the softmax, a mean over columns and
    characters. The teacher is in training mode. Both views must have each character at the same place: leave geometry
    out of their augmentation.
    """

    name: Literal["text_mean_teacher"] = "text_mean_teacher"  # pyright: ignore[reportIncompatibleVariableOverride]
    ema: float = 0.995
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.ema > 0, "ema", "must be above 0: the average is the teacher")
