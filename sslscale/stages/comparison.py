"""The report of several networks judged by the same protocols: one table, and what each gains on a baseline."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from sslscale.graph.artifacts import Artifact, Report
from sslscale.graph.context import RunContext
from sslscale.graph.dag import cpu_only
from sslscale.storage.jsonio import read_json, write_json


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """Names of the networks in the table's order; each has some of `NAME_probe`, `NAME_finetune`, `NAME_test`."""

    networks: tuple[str, ...]
    baseline: str
    version: int = field(default=1, init=False)


@cpu_only
def comparison(ctx: RunContext, config: ComparisonConfig, **inputs: Artifact) -> Report:
    """Write report.html, comparison.png and summary.json. The metrics are each network's gain on the baseline."""
    from sslscale.report import page
    from sslscale.report.figures import new_figure

    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name in config.networks:
        rows = found.setdefault(name, {})
        if probed := inputs.get(f"{name}_probe"):
            rows |= {k: v for k, v in read_json(probed.dir / "report.json").items() if isinstance(v, dict)}
        for protocol in ("finetune", "test"):
            if tested := inputs.get(f"{name}_{protocol}"):
                rows[protocol] = read_json(tested.dir / "report.json")
    columns = {
        protocol: next(m for m in ("accuracy", "recall_at_1", "nmi") if m in row)
        for rows in found.values()
        for protocol, row in rows.items()
    }
    base = found[config.baseline]

    def cell(row: dict[str, Any] | None, protocol: str, name: str) -> str:
        if row is None:
            return ""
        value, own = row[columns[protocol]], base.get(protocol)
        if own is None or name == config.baseline:
            return f"{100 * value:.1f}"
        gain = f"{100 * (value - own[columns[protocol]]):+.1f}"
        if columns[protocol] == "accuracy":
            gain += f" ± {100 * math.hypot(_half(row), _half(own)):.1f}"
        return f"{100 * value:.1f} ({gain})"

    titles = [f"{protocol} {metric.replace('_', ' ')}" for protocol, metric in columns.items()]
    table = page.table(
        ["network", *titles],
        [[name, *(cell(rows.get(p), p, name) for p in columns)] for name, rows in found.items() if rows],
    )
    judged = [protocol for protocol, metric in columns.items() if metric == "accuracy"]
    many = len(config.networks) > 6
    figure = new_figure(min(max(7.6, 0.45 * len(config.networks)), 16), 4.6 if many else 3.6)
    axes = figure.add_subplot()
    for protocol in judged:
        having = [(name, rows[protocol]) for name, rows in found.items() if protocol in rows]
        values = [row["accuracy"] for _, row in having]
        low, high = zip(*(row["accuracy_interval"] for _, row in having), strict=True)
        errors = [[v - a for v, a in zip(values, low, strict=True)], [b - v for v, b in zip(values, high, strict=True)]]
        places = [config.networks.index(name) + 0.08 * judged.index(protocol) for name, _ in having]
        axes.errorbar(places, values, yerr=errors, fmt="o", capsize=3, label=protocol)
    axes.set_xticks(range(len(config.networks)), config.networks)
    if many:
        axes.tick_params(axis="x", rotation=90)
    axes.margins(x=0.1 if len(config.networks) < 5 else 0.03)
    axes.set(ylabel="test accuracy")
    axes.grid(alpha=0.3)
    if len(judged) > 1:
        axes.legend(frameon=False)
    figure.savefig(ctx.path / "comparison.png", dpi=110)
    sections = {
        f"Per cent, and points above {config.baseline} with their 95 % interval": [
            table,
            page.picture(ctx.path / "comparison.png", "Accuracy with its 95 % interval", wide=True),
        ]
    }
    if clusters := inputs.get("clusters"):
        numbers = [[n.replace("_", " "), f"{v:,.4g}"] for n, v in clusters.metrics.items()]
        sections["Clusters"] = [
            page.table(["k-means", ""], numbers),
            page.picture(clusters.dir / "sizes.png", "Images of each cluster"),
        ]
    galleries = [
        page.picture(inputs[f"{name}_probe"].dir / "gallery.png", f"Nearest images by {name}", wide=True)
        for name in config.networks
        if f"{name}_probe" in inputs
    ]
    if any(galleries):
        sections["Retrieval"] = galleries
    (ctx.path / "report.html").write_text(page.page("Comparison", sections), "utf-8")
    metrics = {
        f"{name}_{protocol}_gain": row["accuracy"] - base[protocol]["accuracy"]
        for name, rows in found.items()
        for protocol, row in rows.items()
        if name not in (config.baseline, "random") and protocol in judged and protocol in base
    }
    write_json(ctx.path / "summary.json", {"protocols": found, "gains": metrics})
    return Report(path=str(ctx.path), metrics=metrics)


def _half(row: dict[str, Any]) -> float:
    """Half the width of an accuracy's interval."""
    low, high = row["accuracy_interval"]
    return (high - low) / 2
