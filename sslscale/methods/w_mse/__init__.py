"""Settings of W-MSE."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import SelfSupervised
from sslscale.settings.streams import ViewSpec


@dataclass(frozen=True, kw_only=True)
class WMSE(SelfSupervised):
    """W-MSE (Ermolov et al. 2021, arXiv:2007.06346): whitened embeddings of an image's views agree. Published with
    Adam, lr 3e-3, decay 1e-6, 1,000 epochs, batches of 512 for 2 views and 256 for 4.
    """

    name: Literal["w_mse"] = "w_mse"  # pyright: ignore[reportIncompatibleVariableOverride]
    num_views: int = 2
    whitened: int = 128  # images that are whitened together: twice the projection at least, a divisor of the batch
    hidden: int = 1024
    projection: int = 64
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.num_views >= 2, "num_views", "must be 2 or more")
        require(self.hidden > 0, "hidden", "must be positive")
        require(self.projection > 0, "projection", "must be positive")
        require(self.whitened >= 2 * self.projection, "whitened", "must be twice the projection or more")

    @property
    def views(self) -> tuple[ViewSpec, ...]:
        """The views."""
        return (ViewSpec("view", self.num_views),)

    def unsupported_batch(self, batch_size: int) -> str | None:
        """Why the method cannot train on batches of this size."""
        if batch_size % self.whitened:
            return f"must be a multiple of method.whitened, the {self.whitened} images that are whitened together"
        return None

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "it whitens the embeddings of a batch"
