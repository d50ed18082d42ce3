"""The report of networks that differ in three ways: a table for each panel, in it what each row gains on the first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from sslscale.graph.artifacts import Report
from sslscale.graph.context import RunContext
from sslscale.graph.dag import cpu_only
from sslscale.storage.jsonio import read_json, write_json

_LABELS = {"accuracy": "accuracy", "ap": "AP of boxes", "miou": "mIoU"}


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """Keys and titles of panels, names of columns and rows; `COLUMN_PANEL_ROW` is the input of one network."""

    panels: tuple[tuple[str, str], ...]
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    metric: Literal["accuracy", "ap", "miou"] = field(default="accuracy", metadata={"new": True})
    version: int = field(default=1, init=False)


@cpu_only
def grid(ctx: RunContext, config: GridConfig, **inputs: Report) -> Report:
    """Write report.html, grid.png and summary.json. The metrics are each network's gain on the first of its column."""
    from sslscale.report import page
    from sslscale.report.figures import new_figure

    found = {name: _measured(read_json(report.dir / "report.json"), config.metric) for name, report in inputs.items()}
    first, *others = config.rows
    figure = new_figure(4.2 * len(config.panels) + 0.6, 3.8)
    axes = figure.subplots(1, len(config.panels), sharey=True, squeeze=False)[0]
    sections, metrics = {}, {}
    for panel, (key, title) in zip(axes, config.panels, strict=True):
        cells = []
        for place, row in enumerate(config.rows):
            reports = [found[f"{column}_{key}_{row}"] for column in config.columns]
            values = [report[config.metric] for report in reports]
            base = [found[f"{column}_{key}_{first}"][config.metric] for column in config.columns]
            gains = ["" if row == first else f" ({100 * (v - b):+.1f})" for v, b in zip(values, base, strict=True)]
            cells.append([row, *(f"{100 * v:.1f}{gain}" for v, gain in zip(values, gains, strict=True))])
            low, high = zip(*(report[f"{config.metric}_interval"] for report in reports), strict=True)
            errors = [
                [v - a for v, a in zip(values, low, strict=True)],
                [b - v for v, b in zip(values, high, strict=True)],
            ]
            places = [number + 0.06 * place for number in range(len(config.columns))]
            panel.errorbar(places, values, yerr=errors, marker="o", capsize=2, linewidth=1, label=row)
        panel.set_xticks(range(len(config.columns)), config.columns)
        panel.set_title(title, fontsize=10)
        panel.set_xlim(-0.4, len(config.columns) - 0.6 + 0.06 * len(config.rows))
        panel.grid(alpha=0.3)
        sections[f"{title}: per cent, and points above {first}"] = [page.table(["", *config.columns], cells)]
        for row in others:
            for column in config.columns:
                name = f"{column}_{key}_{row}"
                metrics[f"{name}_gain"] = found[name][config.metric] - found[f"{column}_{key}_{first}"][config.metric]
    axes[0].set(ylabel=_LABELS[config.metric])
    axes[-1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1.0))  # beside the points
    figure.savefig(ctx.path / "grid.png", dpi=110, bbox_inches="tight")
    picture = page.picture(ctx.path / "grid.png", f"{_LABELS[config.metric]} with its 95 % interval", wide=True)
    (ctx.path / "report.html").write_text(page.page("Comparison", {**sections, "All": [picture]}), "utf-8")
    write_json(ctx.path / "summary.json", {"networks": found, "gains": metrics})
    return Report(path=str(ctx.path), metrics=metrics)


def _measured(report: dict[str, Any], metric: str) -> dict[str, Any]:
    """A network's numbers with the metric at their top; of a detector those of its boxes."""
    own = report["boxes"] if metric == "ap" else report
    point = own[metric]
    return {**report, metric: point, f"{metric}_interval": own.get(f"{metric}_interval", (point, point))}
