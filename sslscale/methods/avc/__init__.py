"""Settings of audio-visual correspondence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.settings.kinds import ImageSound


@dataclass(frozen=True, kw_only=True)
class AVC(ImageSound):
    """Audio-visual correspondence: does this sound belong to this frame? (arXiv:1705.08168)

    The frame is one of those during which the sound is heard. With `fusion: distance` the answer follows from the
    distance of two embeddings of length 1 (AVE-Net, arXiv:1712.06651), which can be searched; with `concatenation`
    from both features side by side (L3-Net). Of each clip both its own sound and that of the next clip in the global
    batch are compared with its frame, where the papers toss a coin. Those two clips may be of one video.
    """

    name: Literal["avc"] = "avc"  # pyright: ignore[reportIncompatibleVariableOverride]
    fusion: Literal["distance", "concatenation"] = "distance"
    version: int = field(default=1, init=False)
