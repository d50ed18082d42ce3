"""What a person sees while a graph runs: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sslscale.cli.units import show_clock, show_metric
from sslscale.graph.dag import Planned
from sslscale.graph.stage_warnings import Warnings
from sslscale.interrupts import sigterm_blocked

_MARKS = {"planned": " ", "waiting": "…", "ran": "✓", "cached": "=", "failed": "✗"}
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_ORDER = {state: n for n, state in enumerate(("running", "failed", "waiting", "ran", "cached", "planned"))}
_STYLES = {"running": "bold", "ran": "green", "cached": "dim", "failed": "bold red", "waiting": "yellow"}
PLAIN_EVERY_S = 10.0
_SETTLED_S = 3.0  # before that, a stage's speed says little of the time it needs


def plan_table(planned: Sequence[Planned], costs: Mapping[str, tuple[str, str]] | None = None) -> Table:
    """The plan: each stage, its key, whether and why it runs, and its time and size where `costs` has them."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("stage", "key", "state", *(("time", "size") if costs is not None else ()), "why"):
        table.add_column(column, overflow="fold" if column == "why" else "ellipsis")
    for entry in planned:
        why = "" if entry.why == "cached" else entry.why
        more = costs.get(entry.stage.name, ("", "")) if costs is not None else ()
        table.add_row(entry.stage.name, entry.key, entry.state, *more, why, style=_STYLES.get(entry.state, ""))
    return table


def shown_metrics(record: Mapping[str, Any]) -> str:
    """The few numbers of a record, in one line."""
    values = record["fields"]["metrics"].items()
    return "  ".join(show_metric(name, value) for name, value in list(values)[:3])


class Progress:
    """Observes a run and shows it."""

    def __init__(self, planned: Sequence[Planned], console: Console, logs: Path):
        self._states = {entry.stage.name: "planned" for entry in planned}
        self._planned = {entry.stage.name: entry for entry in planned}
        self._since: dict[str, float] = {}
        self._first: dict[str, tuple[float, float]] = {}
        self._records: dict[str, Mapping[str, Any]] = {}
        self._warnings: dict[str, Warnings] = {}
        self._said = time.monotonic()
        self._console = console
        self._closed = False
        self._live: Live | None = None
        if console.is_terminal:  # what libraries write belongs to the log, not above the table
            # refreshed by a thread: it moves while this one waits, for Ray to start or for a plan
            self._live = Live(
                console=console, get_renderable=self._window, redirect_stdout=False, redirect_stderr=False
            )
            with sigterm_blocked():
                self._live.start()
        else:
            self._print(f"{len(planned)} stages; logs in {logs}")

    def changed(self, planned: Planned, state: str, record: Mapping[str, Any] | None) -> None:
        """A stage has a new state."""
        name = planned.stage.name
        self._states[name] = state
        if state == "running":
            self._since[name] = time.monotonic()
            self._warnings[name] = Warnings(planned.path)
        elif name in self._warnings:
            self._warn(name)
        if record is not None:
            self._records[name] = record
        if not self._live:
            if state == "waiting":
                self._print(f"{name}: another run is at it; waiting for its result")
            elif record is not None:
                seconds = f" in {record['seconds']:.1f} s" if state == "ran" else ""
                self._print(f"{name}: {state}{seconds}  {shown_metrics(record)}")
            else:
                self._print(f"{name}: {state}")
        self.tick()

    def tick(self) -> None:
        """Show how far the running stages are, and what they warn of."""
        for name, state in self._states.items():
            if state == "running":
                self._warn(name)
        if not self._live and time.monotonic() - self._said > PLAIN_EVERY_S:
            for name, state in self._states.items():
                if state == "running":
                    done, left, text = self._row(name)
                    words = [done, text, left or show_clock(time.monotonic() - self._since[name])]
                    self._print(f"{name}: {'  '.join(word for word in words if word)}")
            self._said = time.monotonic()

    def close(self) -> None:
        """Leave the last table on the screen."""
        if self._live:
            self._closed = True
            self._live.vertical_overflow = "visible"
            self._live.stop()

    def _warn(self, name: str) -> None:
        for line in self._warnings[name].new():
            self._console.print(f"{name}: {line}", style="yellow", markup=False, highlight=False, soft_wrap=True)

    def _print(self, text: str) -> None:
        self._said = time.monotonic()
        self._console.print(text, highlight=False, soft_wrap=True)

    def _window(self) -> Table | Group:
        """As many stages as the terminal has lines for: the running ones first, then what has just ended. At the end
        all of them, in the order of the graph."""
        if self._closed:
            return self._table(self._states)
        if all(state == "planned" for state in self._states.values()):
            return Group(spinner() + " starting Ray", Text())
        room = max(self._console.height - 3, 3)
        names = sorted(self._states, key=lambda name: _ORDER[self._states[name]])
        if len(names) <= room:
            return self._table(names)
        hidden = Counter(self._states[name] for name in names[room:])
        more = ", ".join(f"{count} {'done' if state == 'ran' else state}" for state, count in hidden.items())
        return Group(self._table(names[:room]), Text(f"  and {len(names) - room} more: {more}", style="dim"))

    def _table(self, names: Iterable[str]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold", width=self._console.width - 3)
        table.add_column("", width=1)
        table.add_column("stage", no_wrap=True, max_width=max(self._console.width - 50, 16))
        table.add_column("done", justify="right", no_wrap=True, min_width=6)
        table.add_column("time", justify="right", no_wrap=True, min_width=9)
        table.add_column("", overflow="ellipsis", no_wrap=True, ratio=1)
        for name in names:
            state = self._states[name]
            record = self._records.get(name)
            mark = _MARKS.get(state) or spinner()
            done, clock, text = "" if state == "planned" else state, "", ""
            if state == "running":
                done, left, text = self._row(name)
                clock = left or show_clock(time.monotonic() - self._since[name])
            elif record is not None:
                done = "done" if state == "ran" else state
                clock = show_clock(record["seconds"]) if state == "ran" else ""
                text = shown_metrics(record)
            table.add_row(mark, escape(name), done, clock, escape(text), style=_STYLES.get(state, ""))
        return table

    def _row(self, name: str) -> tuple[str, str, str]:
        """Share done, time left, and images/s with the loss or what the stage is at; empty while nothing is known."""
        try:
            seen = json.loads((self._planned[name].path / "progress.json").read_text("utf-8"))
        except (OSError, ValueError):
            return "", "", "starting"
        done, total = seen["done"], max(seen["total"], 1)
        now = time.monotonic()
        # the first sight of a resumed stage is not 0: the rate of this attempt alone tells the time left
        start, first = self._first.setdefault(name, (now, done))
        known = done > first and now - start > _SETTLED_S
        left = f"{show_clock((now - start) / (done - first) * (total - done))} left" if known else ""
        rate, loss = seen.get("rate"), seen.get("loss")
        words = (
            f"{rate:,.0f} images/s" if rate else "",
            f"loss {loss:.3f}" if loss is not None else "",
            seen.get("doing", ""),
        )
        return f"{100 * done / total:.0f} %", left, "  ".join(word for word in words if word)


def spinner() -> str:
    """A character that turns with the clock."""
    return _SPINNER[int(time.monotonic() * 5) % len(_SPINNER)]
