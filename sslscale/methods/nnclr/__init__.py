"""Settings of NNCLR."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from sslscale.config import require
from sslscale.methods.settings import MethodSettings


@dataclass(frozen=True, kw_only=True)
class NNCLR(MethodSettings):
    """NNCLR (Dwibedi et al. 2021, arXiv:2104.14548): published with LARS and batches of 4,096, temperature .1."""

    num_views: ClassVar[int] = 2
    name: Literal["nnclr"] = "nnclr"  # pyright: ignore[reportIncompatibleVariableOverride]
    temperature: float = 0.1
    queue: int = 98_304  # embeddings of past batches, among which the nearest is sought
    hidden: int = 2048  # of the projector, which has three layers
    projection: int = 256
    predictor: int = 4096  # hidden width
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.temperature > 0, "temperature", "must be positive")
        require(self.queue > 0, "queue", "must be positive")
        require(self.hidden > 0, "hidden", "must be positive")
        require(self.projection > 0, "projection", "must be positive")
        require(self.predictor > 0, "predictor", "must be positive")

    def batch_sizes(self, batch_size: int) -> Mapping[str, int]:
        """Images of each stream in one global batch."""
        return {"images": batch_size}

    @property
    def whole_batch(self) -> str:
        """Why a step needs its batch at once."""
        return "it compares the images of a batch with one another"
