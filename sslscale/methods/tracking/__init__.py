"""Settings of learning from tracked patches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.kinds import Clips
from sslscale.settings.streams import StreamSpec


@dataclass(frozen=True, kw_only=True)
class Tracking(Clips):
    """Tracking as supervision (Wang & Gupta 2015, arXiv:1505.00687): a patch is nearer to what it has become in the
    course of a clip than to a patch of another video.

    The patch of `patch` pixels a side with the most motion is followed from the first frame to the last by block
    matching, `search` pixels a frame at most, where the paper has SURF points and a KCF tracker. Clips are left out
    whose moving points are too few or too many, the camera's motion: shares outside `moving`. Until `hard_from`, a
    share of the training, negatives are drawn from the batch, then they are the `hardest` of it. The loss is the hinge
    of 1 - cosine with the margin `margin`; the embedding is made by two layers, of `hidden` and `projection` features.
    """

    name: Literal["tracking"] = "tracking"  # pyright: ignore[reportIncompatibleVariableOverride]
    patch: int = 96
    search: int = 4
    moving: tuple[float, float] = (0.25, 0.75)
    margin: float = 0.5
    hard_from: float = 0.5
    hardest: int = 4
    hidden: int = 4096
    projection: int = 1024
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        for name in ("patch", "search", "hardest", "hidden", "projection"):
            require(getattr(self, name) > 0, name, "must be positive")
        require(0 <= self.moving[0] < self.moving[1] <= 1, "moving", "must rise and lie in [0, 1]")
        require(self.margin > 0, "margin", "must be positive")
        require(0 <= self.hard_from <= 1, "hard_from", "must lie in [0, 1]")

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        """One stream, `images`, whose samples are clips, with the number of their video."""
        return (StreamSpec(name="images", source="all", fields=("video",), clips=True),)

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "negatives are patches of the whole batch"
