"""Settings of SigLIP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.kinds import ImageText


@dataclass(frozen=True, kw_only=True)
class SigLIP(ImageText):
    """SigLIP (Zhai et al. 2023, arXiv:2303.15343): whether an image and a caption belong together, for each pair alone.

    `scale` and `bias` are where the learnt ones begin (algorithm 1). The paper prefers it to CLIP for batches below
    32,768. Its text towers are not `causal`.
    """

    name: Literal["siglip"] = "siglip"  # pyright: ignore[reportIncompatibleVariableOverride]
    scale: float = 10.0
    bias: float = -10.0
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.scale <= 100, "scale", "must lie in [1, 100]")
