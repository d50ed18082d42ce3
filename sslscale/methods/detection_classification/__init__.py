"""Settings of training a detector and a classifier of other images on one backbone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.kinds import Scenes
from sslscale.settings.streams import StreamSpec, ViewSpec


@dataclass(frozen=True, kw_only=True)
class DetectionClassification(Scenes):
    """Joint training (Zoph et al. 2020, arXiv:2006.06882, section 5): annotated images and classified ones, of another
    data set, are learned at once by one backbone, instead of one after the other.

    `classes` is the number of classes of the other images, of which there are `ratio` for each annotated one.
    """

    name: Literal["detection_classification"] = "detection_classification"  # pyright: ignore[reportIncompatibleVariableOverride]
    classes: int = 1000
    ratio: int = 1
    weight: float = 1.0  # of the classifier's loss
    label_smoothing: float = 0.0
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.classes >= 2, "classes", "must be 2 or more")
        require(self.ratio >= 1, "ratio", "must be 1 or more")
        require(self.weight >= 0, "weight", "must be 0 or more")
        require(0 <= self.label_smoothing < 1, "label_smoothing", "must lie in [0, 1)")
        require(not self.detector.frozen, "detector.frozen", "the backbone learns from both")

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        """Annotated images, and `ratio` times as many classified ones."""
        views = (ViewSpec("classified", required=True),)
        other = StreamSpec(name="classified", source="classified", ratio=self.ratio, fields=("label",), views=views)
        return *super().streams, other
