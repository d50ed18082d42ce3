"""Settings of CLIP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.kinds import ImageText


@dataclass(frozen=True, kw_only=True)
class CLIP(ImageText):
    """CLIP (Radford et al. 2021, arXiv:2103.00020): each image finds its caption among those of the global batch, and
    each caption its image. `temperature` is where the learnt one begins; its inverse stays between 1 and 100."""

    name: Literal["clip"] = "clip"  # pyright: ignore[reportIncompatibleVariableOverride]
    temperature: float = 0.07
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0.01 <= self.temperature <= 1, "temperature", "must lie in [.01, 1]")
