"""Where a training reports to: its log, its progress, and what is kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sslscale.data.batch import Batch
from sslscale.graph.context import RunContext
from sslscale.report.views import draw_views
from sslscale.settings.model import ImageConfig


class Recorder:
    """Called by the training loop on the main worker. This one records nothing; `folder` is where states are saved."""

    folder: Path | None = None

    def resumed(self, step: int) -> None:
        """The training starts at this step."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics since the last log."""

    def shown(self, batch: Mapping[str, Batch]) -> None:
        """The first batch that is trained on."""

    def progress(self, step: int, shown: Mapping[str, float | str]) -> None:
        """A few numbers for the screen, at most twice a second."""

    def saved(self) -> None:
        """A state was written to `folder`."""

    def asked_to_stop(self) -> bool:
        """Whether the training is to save its state and end before its last step."""
        return False


class StageRecorder(Recorder):
    """Records into the folder of a stage. `last` holds the newest value of each metric."""

    def __init__(self, ctx: RunContext, num_steps: int, image: ImageConfig):
        self._ctx, self._num_steps = ctx, num_steps
        self._mean, self._std = image.mean, image.std
        self.folder = ctx.path / "state"
        self.last: dict[str, float] = {}

    def resumed(self, step: int) -> None:
        self._ctx.rewind(step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.last.update(metrics)
        self._ctx.log(step, metrics)

    def progress(self, step: int, shown: Mapping[str, float | str]) -> None:
        self._ctx.progress(step, self._num_steps, **shown)

    def shown(self, batch: Mapping[str, Batch]) -> None:
        draw_views(self._ctx.path / "views.png", batch, self._mean, self._std)

    def saved(self) -> None:
        self._ctx.push()

    def asked_to_stop(self) -> bool:
        return self._ctx.asked_to_stop()
