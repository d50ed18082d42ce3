"""Settings of detection and segmentation from annotated images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.settings.kinds import Scenes


@dataclass(frozen=True, kw_only=True)
class Detection(Scenes):
    """A detector, or a network that gives each pixel a class, trained on annotated images.

    torchvision's detectors choose anchors and proposals by what they find, so that the host waits for the device in
    each step; `fcn` and `linear` do not.
    """

    name: Literal["detection"] = "detection"  # pyright: ignore[reportIncompatibleVariableOverride]
    version: int = field(default=1, init=False)
