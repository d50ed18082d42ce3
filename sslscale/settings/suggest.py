"""Settings of active learning: which images to label next."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from sslscale.config import require

Strategy = Literal["entropy", "margin", "least_confidence", "coreset", "badge", "typiclust", "random"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)
NEED_CLASSES = ("entropy", "margin", "least_confidence", "badge")  # of a classifier, not of a backbone alone


@dataclass(frozen=True, kw_only=True)
class SuggestConfig:
    """Which `number` of the unlabelled images to label next.

    `entropy`, `margin` (the difference of the two most probable classes) and `least_confidence` take what the
    classifier is least sure of. `coreset` is the greedy k-centre of the features (Sener & Savarese 2018,
    arXiv:1708.00489), `badge` k-means++ on the gradients of the last layer (Ash et al. 2020, arXiv:1906.03671),
    `typiclust` the most typical image of each cluster without a label (Hacohen et al. 2022, arXiv:2202.02794). These
    three compare images with one another: they choose among `pool` images that the seed draws, so that memory does not
    grow with the data.
    """

    number: int = 100
    by: Strategy = "margin"
    pool: int = 50_000
    batch_size: int = field(default=256, metadata={"identity": False})
    seed: int = field(default=0, metadata={"hidden": True})
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.number >= 1, "number", "must be 1 or more")
        require(self.pool >= self.number, "pool", "must not be below number")
        require(self.batch_size > 0, "batch_size", "must be positive")
