"""Settings of Noisy Student's student."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import MethodSettings
from sslscale.settings.streams import StreamSpec


@dataclass(frozen=True, kw_only=True)
class NoisyStudent(MethodSettings):
    """A student trained on labelled and pseudo-labelled images side by side (Xie et al. 2020, arXiv:1911.04252).

    Its noise stands elsewhere: RandAugment in `augment`, dropout and stochastic depth in `model`. With `labels: false`
    it learns from pseudo-labelled images alone, which `batch_size` then counts.
    """

    name: Literal["noisy_student"] = "noisy_student"  # pyright: ignore[reportIncompatibleVariableOverride]
    unlabeled_ratio: int = 14  # section 4.1: 14:1, and 28:1 in the last round
    unlabeled_weight: float | None = None  # None: the ratio, so that every image of the batch counts alike
    soft_labels: bool = True  # False: the teacher's most probable class
    temperature: float = 1.0  # of the soft labels; 1 leaves them as the teacher gave them
    label_smoothing: float = 0.1  # of labels and hard pseudo-labels
    ema: float = 0.0  # the authors' code: .9999
    labels: bool = field(default=True, metadata={"new": True})
    version: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        require(self.unlabeled_ratio >= 1, "unlabeled_ratio", "must be 1 or more")
        require(self.unlabeled_weight is None or self.unlabeled_weight >= 0, "unlabeled_weight", "is negative")
        require(self.temperature > 0, "temperature", "must be positive")
        require(0 <= self.label_smoothing < 1, "label_smoothing", "must lie in [0, 1)")
        require(0 <= self.ema < 1, "ema", "must lie in [0, 1)")

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        """Labelled images, and `unlabeled_ratio` times as many pseudo-labelled ones."""
        if not self.labels:
            return (StreamSpec(name="pseudo", source="pseudo", fields=("soft_label",)),)
        return (
            StreamSpec(name="labeled", source="labeled", fields=("label",)),
            StreamSpec(name="pseudo", source="pseudo", ratio=self.unlabeled_ratio, fields=("soft_label",)),
        )
