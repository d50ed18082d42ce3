"""Settings of unsupervised data augmentation on lines of text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.kinds import UnlabeledLines


@dataclass(frozen=True, kw_only=True)
class TextUDA(UnlabeledLines):
    """UDA (arXiv:1904.12848) on lines of text: a strong view shall be read as the weak one is.

    With `consistency: sequence` the weak view's best path is the text that CTC asks of the strong view, which may be
    moved and turned; `threshold` is the least geometric mean of its columns' probabilities. With `columns` it is the
    divergence from the weak view's columns, sharpened by `temperature`, of the columns that are no blank and reach the
    threshold: then the strong view must not be moved.
    """

    name: Literal["text_uda"] = "text_uda"  # pyright: ignore[reportIncompatibleVariableOverride]
    consistency: Literal["sequence", "columns"] = "sequence"
    threshold: float = 0.98
    temperature: float = 0.4
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.threshold <= 1, "threshold", "must lie in [0, 1]")
        require(self.temperature > 0, "temperature", "must be positive")

    @property
    def compares_columns(self) -> bool:
        """With `consistency: columns` it does."""
        return self.consistency == "columns"
