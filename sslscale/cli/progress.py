"""What a person sees while a graph runs: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from sslscale.graph.dag import Planned
from sslscale.graph.stage_warnings import Warnings

_MARKS = {"planned": " ", "waiting": "…", "running": "▶", "ran": "✓", "cached": "=", "failed": "✗"}
_STYLES = {"running": "bold", "ran": "green", "cached": "dim", "failed": "bold red", "waiting": "yellow"}
PLAIN_EVERY_S = 10.0


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
    return "  ".join(f"{name} {value:,.4g}" for name, value in list(values)[:3])


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
        self._live: Live | None = None
        if console.is_terminal:  # what libraries write belongs to the log, not above the table
            self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
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
        if self._live:
            self._live.update(self._table(), refresh=True)
        elif time.monotonic() - self._said > PLAIN_EVERY_S:
            for name, state in self._states.items():
                if state == "running":
                    done, rate, eta, loss = self._row(name)
                    words = [done, rate, f"{eta} left" if eta else "", loss]
                    if done:
                        self._print(f"{name}: {'  '.join(word for word in words if word)}")
            self._said = time.monotonic()

    def close(self) -> None:
        """Leave the last table on the screen."""
        if self._live:
            self._live.update(self._table(), refresh=True)
            self._live.stop()

    def _warn(self, name: str) -> None:
        for line in self._warnings[name].new():
            self._console.print(f"{name}: {line}", style="yellow", markup=False, highlight=False, soft_wrap=True)

    def _print(self, text: str) -> None:
        self._said = time.monotonic()
        self._console.print(text, highlight=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("")
        table.add_column("stage", no_wrap=True)
        table.add_column("done", justify="right", no_wrap=True)
        table.add_column("rate", justify="right", no_wrap=True)
        table.add_column("time", justify="right", no_wrap=True)
        table.add_column("", overflow="ellipsis", no_wrap=True)
        for name, state in self._states.items():
            style = _STYLES.get(state, "")
            record = self._records.get(name)
            if state == "running":
                done, rate, eta, loss = self._row(name)
                clock = _clock(time.monotonic() - self._since[name])
                table.add_row(_MARKS[state], name, done, rate, f"{clock} +{eta}" if eta else clock, loss, style=style)
            elif record is not None:
                clock = _clock(record["seconds"]) if state == "ran" else ""
                table.add_row(_MARKS[state], name, state, "", clock, shown_metrics(record), style=style)
            else:
                table.add_row(_MARKS[state], name, "" if state == "planned" else state, "", "", "", style=style)
        return table

    def _row(self, name: str) -> tuple[str, str, str, str]:
        """Share done, images/s, time left, loss."""
        try:
            seen = json.loads((self._planned[name].path / "progress.json").read_text("utf-8"))
        except (OSError, ValueError):
            return "", "", "", ""
        done, total = seen["done"], max(seen["total"], 1)
        now = time.monotonic()
        # the first sight of a resumed stage is not 0: the rate of this attempt alone tells the time left
        start, first = self._first.setdefault(name, (now, done))
        eta = _clock((now - start) / (done - first) * (total - done)) if done > first else ""
        rate = seen.get("rate")
        loss = seen.get("loss")
        return (
            f"{100 * done / total:.0f} %",
            f"{rate:,.0f} img/s" if rate else "",
            eta,
            f"loss {loss:.3f}" if loss is not None else "",
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
