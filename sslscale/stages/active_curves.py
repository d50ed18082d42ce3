"""The report of an experiment in active learning: accuracy against labels, for each way to choose."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sslscale.graph.artifacts import Artifact, Report
from sslscale.graph.context import RunContext
from sslscale.graph.dag import cpu_only
from sslscale.storage.jsonio import read_json, write_json


@dataclass(frozen=True, kw_only=True)
class ActiveCurvesConfig:
    """Inputs are START__SEED__first and START__SEED__STRATEGY__ROUND. `first` are the labels a class of round 0."""

    starts: tuple[str, ...]
    strategies: tuple[str, ...]
    rounds: int
    per_round: int
    first: int
    seeds: tuple[int, ...]
    version: int = field(default=1, init=False)


@cpu_only
def active_curves(ctx: RunContext, config: ActiveCurvesConfig, **inputs: Artifact) -> Report:
    """Write report.html, START.png and summary.json. The metrics are the gains in the area under the curve on chance,
    points of mean accuracy over the rounds."""
    from sslscale.report import page

    reports = {name: read_json(artifact.dir / "report.json") for name, artifact in inputs.items()}
    classes = len(next(iter(reports.values()))["classes"])
    labels = [config.first * classes + n * config.per_round for n in range(config.rounds + 1)]
    sections: dict[str, list[str]] = {}
    metrics: dict[str, float] = {}
    summary: dict[str, Any] = {"labels": labels}
    for start in config.starts:
        curves = {strategy: _curves(reports, start, strategy, config) for strategy in config.strategies}
        chance = [_area(curve) for curve in curves["random"]]
        rows = []
        for strategy, own in curves.items():
            areas = [_area(curve) for curve in own]
            gains = [a - b for a, b in zip(areas, chance, strict=True)]
            gain = "" if strategy == "random" else f"{statistics.mean(gains):+.2f}{_half(gains)}"
            wins = "" if strategy == "random" else f"{sum(g > 0 for g in gains)} of {len(gains)}"
            points = [_spread([curve[n] for curve in own]) for n in range(len(labels))]
            rows.append([strategy, *points, _spread(areas), gain, wins])
            if strategy != "random":
                metrics[f"{start}_{strategy}_gain"] = statistics.mean(gains) / 100
        _draw(ctx.path / f"{start}.png", labels, curves)
        header = ["chosen by", *(f"{n} labels" for n in labels), "area", "area above random", "seeds above"]
        sections[start] = [
            page.table(header, rows),
            page.picture(ctx.path / f"{start}.png", "Test accuracy against labels, mean and spread", wide=True),
        ]
        summary[start] = curves
    sections[config.starts[-1]].append(
        page.text(
            "Accuracy in per cent, the mean over the seeds and its standard deviation. The area is the mean over the "
            "rounds after the first; differences are of the same seed, with Student's 95 % interval."
        )
    )
    (ctx.path / "report.html").write_text(page.page("Active learning", sections), "utf-8")
    write_json(ctx.path / "summary.json", summary)
    return Report(path=str(ctx.path), metrics=metrics)


def _curves(reports: Mapping[str, Any], start: str, strategy: str, config: ActiveCurvesConfig) -> list[list[float]]:
    """Accuracy in per cent after each round, for each seed."""
    return [
        [100 * reports[f"{start}__{seed}__first"]["accuracy"]]
        + [
            100 * reports[f"{start}__{seed}__{strategy}__{number}"]["accuracy"]
            for number in range(1, config.rounds + 1)
        ]
        for seed in config.seeds
    ]


def _area(curve: list[float]) -> float:
    return statistics.mean(curve[1:])


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if values[1:] else "")


def _half(values: list[float]) -> str:
    """Half of Student's 95 % interval of a mean."""
    if len(values) < 2:
        return ""
    from scipy.stats import t

    quantile = float(t.ppf(0.975, len(values) - 1))
    return f" ± {quantile * statistics.stdev(values) / math.sqrt(len(values)):.2f}"


def _draw(file: Path, labels: list[int], curves: Mapping[str, list[list[float]]]) -> None:
    from sslscale.report.figures import new_figure

    figure = new_figure(7.6, 4.2)
    axes = figure.add_subplot()
    for strategy, own in curves.items():
        middle = [statistics.mean(curve[n] for curve in own) for n in range(len(labels))]
        spread = [statistics.stdev([curve[n] for curve in own]) if own[1:] else 0.0 for n in range(len(labels))]
        style = {"color": "black", "linestyle": "--"} if strategy == "random" else {}
        axes.errorbar(labels, middle, yerr=spread, marker="o", markersize=3, capsize=2, label=strategy, **style)
    axes.set(xlabel="labels", ylabel="test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=110)
