"""What a person sees while trials run: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from sslscale.cli.progress import PLAIN_EVERY_S, spinner
from sslscale.cli.units import show_clock

_CHECK_S = 0.5
_ORDER = {"running": 0, "failed": 1, "ended": 2, "stopped": 3}


@dataclass
class _Trial:
    values: Mapping[str, Any]
    since: float = field(default_factory=time.monotonic)
    state: str = "running"
    score: float | None = None
    step: int = 0
    seconds: float = 0.0


class TrialProgress:
    """Observes trials (see cluster.trials.Watch) and shows them."""

    def __init__(self, console: Console, total: int, metric: str):
        self._console, self._total, self._metric = console, total, metric
        self._trials: dict[str, _Trial] = {}
        self._said = time.monotonic()
        self._closed = False

    def changed(self, name: str, state: str, values: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
        """A trial began, reported, ended or failed."""
        trial = self._trials.setdefault(name, _Trial(values))
        if state == "running" and trial.state != "running":  # it was stopped, and goes on
            trial.since = time.monotonic()
        ended = state != trial.state and state != "running"
        trial.state, trial.seconds = state, time.monotonic() - trial.since
        trial.step = int(metrics.get("step", trial.step))
        trial.score = metrics.get("value", metrics.get("score", trial.score))
        if ended and not self._console.is_terminal:
            self._print(f"trial {len(self._done())} of {self._total} {state}: {self._shown(trial)}")

    @contextlib.contextmanager
    def showing(self) -> Iterator[None]:
        """Show the trials until the block ends."""
        if self._console.is_terminal:
            with Live(
                console=self._console, get_renderable=self._table, redirect_stdout=False, redirect_stderr=False
            ) as live:
                yield
                live.vertical_overflow = "visible"
                self._closed = True
            return
        stop = threading.Event()

        def speak() -> None:
            while not stop.wait(_CHECK_S):
                if time.monotonic() - self._said > PLAIN_EVERY_S:
                    running = len(self._trials) - len(self._done())
                    self._print(f"{len(self._done())} of {self._total} trials done, {running} running")

        thread = threading.Thread(target=speak, daemon=True, name="trials")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _done(self) -> list[_Trial]:
        return [trial for trial in self._trials.values() if trial.state != "running"]

    def _print(self, text: str) -> None:
        self._said = time.monotonic()
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def _shown(self, trial: _Trial) -> str:
        values = "  ".join(
            f"{key.rpartition('.')[2]} {value:.4g}" if isinstance(value, float) else f"{key.rpartition('.')[2]} {value}"
            for key, value in trial.values.items()
        )
        return f"{self._metric} {trial.score:.4f}  {values}" if trial.score is not None else values

    def _table(self) -> Table:
        mark = "" if self._closed else f"{spinner()} "
        done = f"{mark}{len(self._done())} of {self._total} trials"
        table = Table(box=None, pad_edge=False, header_style="bold", width=self._console.width - 3)
        table.add_column(done, no_wrap=True, min_width=16)
        table.add_column("time", justify="right", no_wrap=True, min_width=5)
        table.add_column(self._metric.rpartition("/")[2], justify="right", no_wrap=True)
        table.add_column("values", overflow="ellipsis", no_wrap=True, ratio=1)
        trials = sorted(self._trials.values(), key=lambda trial: (_ORDER[trial.state], -trial.since))
        room = len(trials) if self._closed else max(self._console.height - 3, 3)
        for trial in trials[:room]:
            running = trial.state == "running"
            seconds = time.monotonic() - trial.since if running else trial.seconds
            score = f"{trial.score:.4f}" if trial.score is not None else ""
            state = f"{trial.state}, step {trial.step:,}" if running and trial.step else trial.state
            values = self._shown(_Trial(trial.values))
            table.add_row(state, show_clock(seconds), score, escape(values), style="bold" if running else "")
        return table
