"""Settings of pseudo-labels on lines of text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.kinds import UnlabeledLines
from sslscale.settings.streams import ViewSpec


@dataclass(frozen=True, kw_only=True)
class TextPseudoLabel(UnlabeledLines):
    """Pseudo-labels on lines of text: what the running average of the weights reads, the network learns.

    STR-Fewer-Labels (arXiv:2103.04400) takes a teacher that stays, and every line; here the teacher is the average, and
    a line counts if the geometric mean of its columns' probabilities reaches `threshold`.
    """

    name: Literal["text_pseudo_label"] = "text_pseudo_label"  # pyright: ignore[reportIncompatibleVariableOverride]
    ema: float = 0.995
    threshold: float = 0.98
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.ema > 0, "ema", "must be above 0: the average is the teacher")
        require(0 <= self.threshold <= 1, "threshold", "must lie in [0, 1]")

    @property
    def unlabeled_views(self) -> tuple[ViewSpec, ...]:
        """One weak view."""
        return (ViewSpec("weak"),)
