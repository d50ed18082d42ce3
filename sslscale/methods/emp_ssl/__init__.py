"""Settings of EMP-SSL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.methods.settings import MethodSettings


@dataclass(frozen=True, kw_only=True)
class EMPSSL(MethodSettings):
    """EMP-SSL (Tong et al. 2023, arXiv:2304.03977): many patches of an image, few passes over the images. Published
    with LARS (`trust` .005), lr .3, batches of 100, 20 to 200 patches of a quarter of the area, 1 to 10 epochs.
    """

    name: Literal["emp_ssl"] = "emp_ssl"  # pyright: ignore[reportIncompatibleVariableOverride]
    patches: int = 20
    invariance: float = 200.0  # lambda of eq. 1
    epsilon_squared: float = 0.2  # of the coding rate
    hidden: int = 4096
    projection: int = 1024
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.patches >= 2, "patches", "must be 2 or more")
        require(self.invariance > 0, "invariance", "must be positive")
        require(self.epsilon_squared > 0, "epsilon_squared", "must be positive")
        require(self.hidden > 0, "hidden", "must be positive")
        require(self.projection > 0, "projection", "must be positive")

    @property
    def num_views(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As many as there are patches."""
        return self.patches

    def batch_sizes(self, batch_size: int) -> Mapping[str, int]:
        """Images of each stream in one global batch."""
        return {"images": batch_size}

    @property
    def whole_batch(self) -> str:
        """Why a step needs its batch at once."""
        return "it compares the images of a batch with one another"
