"""Settings of feature distillation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import MethodSettings
from sslscale.settings.streams import StreamSpec


@dataclass(frozen=True, kw_only=True)
class FeatureDistillation(MethodSettings):
    """A new network learns to tell another's features of an image from a view of it.

    ClusterFit's control (arXiv:1912.03330, section 4): the same second training, without the clusters.
    """

    name: Literal["feature_distillation"] = "feature_distillation"  # pyright: ignore[reportIncompatibleVariableOverride]
    hidden: int = 0  # width of a hidden layer before the features are told; 0 for none
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.hidden >= 0, "hidden", "must be 0 or more")

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        """Every training image with another network's features of it."""
        return (StreamSpec(name="images", source="all", fields=("features",)),)
