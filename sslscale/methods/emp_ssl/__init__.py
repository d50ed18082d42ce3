"""Settings of EMP-SSL."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import SelfSupervised
from sslscale.settings.streams import ViewSpec


@dataclass(frozen=True, kw_only=True)
class EMPSSL(SelfSupervised):
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
    def views(self) -> tuple[ViewSpec, ...]:
        """The patches."""
        return (ViewSpec("patch", self.patches),)

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "it compares the images of a batch with one another"
