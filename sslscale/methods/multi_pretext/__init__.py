"""Settings of several pretext tasks on one network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import MethodSettings, Pretext
from sslscale.settings.model import ModelConfig
from sslscale.settings.streams import ViewSpec


@dataclass(frozen=True, kw_only=True)
class PretextTask:
    """One of the tasks: its method, the weight of its loss, and its share of the steps where tasks alternate."""

    method: MethodSettings
    weight: float = 1.0
    share: float = 1.0

    def __post_init__(self) -> None:
        require(isinstance(self.method, Pretext), "method", "must be a pretext task")
        require(self.weight > 0, "weight", "must be positive")
        require(self.share > 0, "share", "must be positive")


@dataclass(frozen=True, kw_only=True)
class MultiPretext(Pretext):
    """Several pretext tasks on one trunk, a head each (Doersch and Zisserman 2017, arXiv:1708.07860).

    `mode: sum` adds the losses of all tasks in every step, each of a view of its own that bears its name (`views`).
    `alternate` takes one task a step, drawn by the seed and the step with the tasks' shares; all see the same view.
    The running statistics of batch normalisation, which evaluation uses, are those of the first task.
    """

    name: Literal["multi_pretext"] = "multi_pretext"  # pyright: ignore[reportIncompatibleVariableOverride]
    tasks: tuple[PretextTask, ...]
    mode: Literal["sum", "alternate"] = "sum"
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(len(self.tasks) >= 2, "tasks", "must be two or more")
        names = [task.method.name for task in self.tasks]
        require(len(set(names)) == len(names), "tasks", "must be of different methods")
        require(self.name not in names, "tasks", "cannot be several tasks themselves")

    @property
    def views(self) -> tuple[ViewSpec, ...]:
        """One view for each task, or one for all."""
        if self.mode == "alternate":
            return (ViewSpec("view"),)
        return tuple(ViewSpec(task.method.name) for task in self.tasks)

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        wrong = [task.method.accumulation_error for task in self.tasks if task.method.accumulation_error]
        return wrong[0] if wrong else ""

    def unsupported_model(self, model: ModelConfig, size: int) -> str | None:
        """What one of the tasks cannot do."""
        for task in self.tasks:
            wrong = task.method.unsupported_model(model, size)
            if wrong is not None:
                return wrong
        return None
