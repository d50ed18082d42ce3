"""Settings of frame interpolation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.kinds import FrameWindows


@dataclass(frozen=True, kw_only=True)
class FrameInterpolation(FrameWindows):
    """Given two frames of a clip, can a third one lie between them? There is no paper of this task.

    The frames are those of Shuffle & Learn (arXiv:1603.08561), in the order start, end, candidate. `outside` is the
    share of candidates that lie before the start or after the end, `foreign` the share that are of another clip.
    """

    name: Literal["frame_interpolation"] = "frame_interpolation"  # pyright: ignore[reportIncompatibleVariableOverride]
    outside: float = 0.4
    foreign: float = 0.1
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.outside >= 0 and self.foreign >= 0, "outside", "must be 0 or more, and so must foreign")
        require(0 < self.outside + self.foreign < 1, "foreign", "must leave candidates that lie between")

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "candidates of other clips are those of the batch" if self.foreign else ""
