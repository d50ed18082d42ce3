"""Settings of measuring robustness."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require


@dataclass(frozen=True, kw_only=True)
class RobustnessConfig:
    """Robustness of a classifier: common corruptions, perturbation sequences, gradient-based attacks.

    `epsilons` are in units of 1/255. `max_images` of `split`, drawn by the seed, are measured; 0 takes all.
    `frost_images` is a folder with the six photographs of the authors' frost corruption; without it a synthetic
    texture is used.
    """

    corruptions: Literal["common", "all", "none"] = "common"
    perturbations: bool = True
    attacks: tuple[Literal["fgsm", "pgd"], ...] = ("fgsm", "pgd")
    epsilons: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    pgd_steps: int = 10
    max_images: int = 1000
    frost_images: str | None = None
    split: str = "test"
    batch_size: int = 250
    seed: int = field(default=0, metadata={"hidden": True})
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(all(e > 0 for e in self.epsilons), "epsilons", "must be positive")
        require(self.pgd_steps > 0, "pgd_steps", "must be positive")
        require(self.max_images >= 0, "max_images", "must be 0 (all) or more")
        require(self.batch_size > 0, "batch_size", "must be positive")
