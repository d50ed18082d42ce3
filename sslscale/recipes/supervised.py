"""Settings of supervised training, which makes Noisy Student's first teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import Recipe, require


@dataclass(frozen=True, kw_only=True)
class Supervised(Recipe):
    """Cross-entropy on labelled images, with label smoothing and an average of the weights (0: none)."""

    name: Literal["supervised"] = "supervised"  # pyright: ignore[reportIncompatibleVariableOverride]
    label_smoothing: float = 0.1
    ema: float = 0.0
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(0 <= self.label_smoothing < 1, "label_smoothing", "must lie in [0, 1)")
        require(0 <= self.ema < 1, "ema", "must lie in [0, 1)")

    def batch_sizes(self, batch_size: int) -> Mapping[str, int]:
        """Images of each stream in one global batch."""
        return {"labeled": batch_size}
