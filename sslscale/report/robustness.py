"""The part of a page that shows what classifiers stand."""

from __future__ import annotations

from typing import Any

from sslscale.graph.artifacts import Artifact
from sslscale.report import page


def robustness_parts(reports: dict[str, tuple[dict[str, Any], Artifact]]) -> list[str]:
    """The section of a page that shows robustness reports, one column a network."""
    names = list(reports)
    rows = list(dict.fromkeys(metric for found, _ in reports.values() for metric in found["metrics"]))
    cells = [
        [metric.replace("_", " "), *(_cell(found["metrics"].get(metric)) for found, _ in reports.values())]
        for metric in rows
    ]
    parts = [page.table(["", *names], cells)]
    for name, (_, report) in reports.items():
        text = f"{name}: error by corruption; accuracy under attack"
        parts.append(page.picture(report.dir / "robustness.png", text, wide=True))
    flips = [found.get("perturbations") for found, _ in reports.values()]
    if flips[0]:
        cells = [[kind.replace("_", " "), *(_cell(f and f[kind]["flip"]) for f in flips)] for kind in flips[0]]
        parts.append(page.table(["flip probability", *names], cells))
    return parts


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
