"""Settings of odd-one-out networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.kinds import Clips


@dataclass(frozen=True, kw_only=True)
class OddOneOut(Clips):
    """Odd-one-out networks (O3N, Fernando et al. 2017, arXiv:1611.06646): which sub-clip is out of order?

    Of each clip `questions` sub-clips are taken, of `length` frames that are `stride` apart; the frames of one of them
    are put in another order that is not the reverse. With `encoding: differences` the network sees the differences of
    successive frames, in gray, as its three channels: the paper's stack, of four frames in place of six. With `frames`
    it sees each frame, and their features stand side by side, so that what it learns can be used on images. Both end in
    a layer of `hidden` features a sub-clip. `fusion` sums their pairwise differences, or puts them side by side.
    """

    name: Literal["odd_one_out"] = "odd_one_out"  # pyright: ignore[reportIncompatibleVariableOverride]
    questions: int = 6
    length: int = 4
    stride: int = 1
    encoding: Literal["differences", "frames"] = "differences"
    fusion: Literal["difference", "concatenation"] = "difference"
    hidden: int = 128
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.questions >= 2, "questions", "must be 2 or more")
        require(3 <= self.length <= 7, "length", "must lie from 3 to 7")
        require(self.encoding == "frames" or self.length == 4, "length", "must be 4 for encoding: differences")
        require(self.stride >= 1, "stride", "must be 1 or more")
        require(self.hidden > 0, "hidden", "must be positive")
