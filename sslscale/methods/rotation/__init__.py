"""Settings of rotation prediction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.settings.method import Pretext


@dataclass(frozen=True, kw_only=True)
class Rotation(Pretext):
    """Rotation prediction (RotNet; Gidaris et al. 2018, arXiv:1803.07728): published with SGD, lr .1 falling to .0008
    in four steps and batches of 128 on CIFAR-10. Flip left to right, but never upside down: that is a half turn.
    """

    name: Literal["rotation"] = "rotation"  # pyright: ignore[reportIncompatibleVariableOverride]
    version: int = field(default=1, init=False)

    @property
    def rgb_only(self) -> bool:
        """It turns images of any channels."""
        return False
