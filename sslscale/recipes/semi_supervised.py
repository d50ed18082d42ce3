"""What the settings of all methods on labelled and unlabelled images share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sslscale.config import Recipe, require


@dataclass(frozen=True, kw_only=True)
class SemiSupervised(Recipe):
    """Two streams with epochs of their own, `labeled` and `unlabeled`; `batch_size` counts the labelled images.

    The unlabelled loss weighs `unlabeled_weight`; with `ema` above 0 the result is a running average of the weights.
    """

    weak_views: ClassVar[int] = 1  # of an unlabelled image
    strong_views: ClassVar[int] = 0

    unlabeled_ratio: int = 1
    unlabeled_weight: float = 1.0
    ema: float = 0.999

    def __post_init__(self) -> None:
        require(self.unlabeled_ratio >= 1, "unlabeled_ratio", "must be 1 or more")
        require(self.unlabeled_weight >= 0, "unlabeled_weight", "must be 0 or more")
        require(0 <= self.ema < 1, "ema", "must lie in [0, 1)")

    def batch_sizes(self, batch_size: int) -> Mapping[str, int]:
        """Images of each stream in one global batch."""
        return {"labeled": batch_size, "unlabeled": batch_size * self.unlabeled_ratio}

    def views(self, stream: str) -> tuple[int, int]:
        """Weak and strong views of an image."""
        return (1, 0) if stream == "labeled" else (self.weak_views, self.strong_views)
