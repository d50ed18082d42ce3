"""Settings of Shuffle & Learn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.kinds import FrameWindows


@dataclass(frozen=True, kw_only=True)
class ShuffleAndLearn(FrameWindows):
    """Shuffle & Learn (Misra, Zitnick & Hebert 2016, arXiv:1603.08561): are three frames in the order of time?

    (b, c, d) is in order, (b, a, d) and (b, e, d) are not: the first and the last frame are the same, the middle one
    alone tells. Each is shown forwards or backwards. `negatives` is the share of those not in order (section 4.2: .75
    is best). Published for 30 frames a second: b and d at most 60 apart, gaps of 15.
    """

    name: Literal["shuffle_and_learn"] = "shuffle_and_learn"  # pyright: ignore[reportIncompatibleVariableOverride]
    negatives: float = 0.75
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.negatives < 1, "negatives", "must lie between 0 and 1")
