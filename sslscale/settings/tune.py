"""Settings of a search over hyper-parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sslscale.config import require


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """What one key may be: `choice` of a list, `uniform` or `loguniform` between two numbers, whole numbers from the
    first of `integer` to its last."""

    choice: tuple[Any, ...] | None = None
    uniform: tuple[float, float] | None = None
    loguniform: tuple[float, float] | None = None
    integer: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        given = [n for n in ("choice", "uniform", "loguniform", "integer") if getattr(self, n) is not None]
        require(len(given) == 1, "choice", "give one of choice, uniform, loguniform, integer")
        require(self.choice is None or len(self.choice) > 0, "choice", "must name at least one value")
        for name in ("uniform", "loguniform", "integer"):
            bounds = getattr(self, name)
            require(bounds is None or bounds[0] < bounds[1], name, "must rise")
        require(self.loguniform is None or self.loguniform[0] > 0, "loguniform", "must be positive")

    @property
    def ends(self) -> tuple[Any, ...]:
        """Every choice, or both ends: what must be a valid configuration."""
        return self.choice or self.uniform or self.loguniform or self.integer or ()


@dataclass(frozen=True, kw_only=True)
class EarlyStop:
    """ASHA (arXiv:1810.05934): at `grace` steps, `reduction` times as many, and so on, only the best 1 / `reduction` of
    the trials go on. `watch` is STAGE/COLUMN of what a training logs; `max_steps` is its length."""

    watch: str
    max_steps: int
    grace: int
    reduction: int = 3

    def __post_init__(self) -> None:
        require("/" in self.watch, "watch", "is STAGE/COLUMN, such as teacher/knn_accuracy")
        require(0 < self.grace <= self.max_steps, "grace", "must lie between 1 and max_steps")
        require(self.reduction > 1, "reduction", "must be 2 or more")


@dataclass(frozen=True, kw_only=True)
class Population:
    """Population-based training (Jaderberg et al. 2017, arXiv:1711.09846): the trials are its members. Every `interval`
    steps a member of the worst quarter takes up the state of one of the best, with that one's values changed a little.

    `watch` is STAGE/COLUMN of what the training logs; `section` is where the configuration sets that training.
    """

    watch: str
    interval: int
    section: str
    quantile: float = 0.25  # of the worst that go, and of the best that they follow
    resample: float = 0.25  # chance that a value is drawn anew; else it is times 1.2 or 0.8, or the next choice

    def __post_init__(self) -> None:
        require("/" in self.watch, "watch", "is STAGE/COLUMN, such as teacher/knn_accuracy")
        require(self.interval > 0, "interval", "must be positive")
        require(0 < self.quantile <= 0.5, "quantile", "must lie in (0, 0.5]")
        require(0 <= self.resample <= 1, "resample", "must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """A search for the `space`'s best values by a `metric` of the run (GROUP/NAME, as `run --json` shows it).

    Only the stages that the metric needs run. `set` lays values over the configuration in every trial: tune on `val`.
    """

    metric: str
    space: dict[str, Dimension]
    mode: Literal["max", "min"] = "max"
    set: dict[str, Any] | None = None
    samples: int = 8
    search: Literal["optuna", "random"] = "optuna"
    early_stop: EarlyStop | None = None
    population: Population | None = None
    concurrent: int | None = None  # trials side by side; None: as many as there are CPUs
    seed: int = 0

    def __post_init__(self) -> None:
        require("/" in self.metric, "metric", "is GROUP/NAME, such as teacher/val_accuracy")
        require(len(self.space) > 0, "space", "must name at least one key")
        require(self.samples > 0, "samples", "must be positive")
        population = self.population is not None
        require(not population or self.early_stop is None, "population", "and early_stop exclude each other")
        require(not population or self.search == "random", "search", "of a population is random: its first values")
        require(not population or self.samples > 1, "samples", "of a population are two or more")
        require(self.concurrent is None or self.concurrent > 0, "concurrent", "must be positive")
