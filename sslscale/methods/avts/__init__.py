"""Settings of audio-visual temporal synchronisation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.kinds import ImageSound
from sslscale.settings.sound import SoundTowerConfig


@dataclass(frozen=True, kw_only=True)
class AVTS(ImageSound):
    """Audio-visual temporal synchronisation (Korbar et al. 2018, arXiv:1807.00230): is this sound at the same time?

    The image tower sees all frames of the window. Negatives are easy, the sound of another clip, or hard: of the same
    clip, `gap` frames apart or more; the paper's are half a second apart. Until `hard_from`, a share of the training,
    all are easy, then `hard_share` of them are hard, as the paper's curriculum has it. The loss is contrastive, with
    the margin `margin`; embeddings have length 1.
    """

    name: Literal["avts"] = "avts"  # pyright: ignore[reportIncompatibleVariableOverride]
    sound: SoundTowerConfig = SoundTowerConfig(times=4)
    gap: int = 4
    hard_from: float = 0.55  # the paper: epoch 50 of 90
    hard_share: float = 0.25
    margin: float = 0.99
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.gap >= 1, "gap", "must be 1 frame or more")
        require(0 <= self.hard_from <= 1, "hard_from", "must lie in [0, 1]")
        require(0 <= self.hard_share <= 1, "hard_share", "must lie in [0, 1]")
        require(self.margin > 0, "margin", "must be positive")
