"""The report of a Noisy Student run: accuracy by round, what was pseudo-labelled, and where the last one errs."""

from __future__ import annotations

from dataclasses import dataclass, field

from sslscale.graph.artifacts import Artifact, Report
from sslscale.graph.context import RunContext
from sslscale.graph.dag import cpu_only
from sslscale.storage.jsonio import read_json, write_json


@dataclass(frozen=True, kw_only=True)
class SummaryConfig:
    """Names of the networks in order, teacher first; each has an input `NAME_report`, students `NAME_selection`."""

    names: tuple[str, ...]
    split: str = "test"
    version: int = field(default=1, init=False)


@cpu_only
def summary(ctx: RunContext, config: SummaryConfig, **inputs: Artifact) -> Report:
    """Write report.html, rounds.png and summary.json."""
    from sslscale.report import page
    from sslscale.report.figures import draw_confidence, new_figure
    from sslscale.report.results import difference, measures
    from sslscale.report.robustness import robustness_parts

    reports = {name: read_json(inputs[f"{name}_report"].dir / "report.json") for name in config.names}
    stats = {
        name: read_json(inputs[f"{name}_selection"].dir / "stats.json")
        for name in config.names
        if f"{name}_selection" in inputs
    }
    measured = {m.stage: m for m in measures({name: inputs[f"{name}_report"].dir for name in config.names})}
    accuracies = [reports[name]["accuracy"] for name in config.names]
    figure = new_figure(9.2, 3.4)
    left, right = figure.subplots(1, 2)
    low, high = zip(*(reports[name]["accuracy_interval"] for name in config.names), strict=True)
    errors = [
        [a - b for a, b in zip(accuracies, low, strict=True)],
        [b - a for a, b in zip(accuracies, high, strict=True)],
    ]
    left.errorbar(config.names, accuracies, yerr=errors, marker="o", capsize=4)
    left.set(ylabel=f"{config.split} accuracy")
    left.tick_params(axis="x", rotation=20)
    left.grid(alpha=0.3)
    for name, found in stats.items():
        draw_confidence(right, found, f"labels for {name}")
    right.set(xlabel="confidence of the teacher", ylabel="images")
    right.legend(frameon=False)
    figure.savefig(ctx.path / "rounds.png", dpi=110)

    rounds = page.table(
        ["network", f"{config.split} accuracy", "95 % interval", "calibration error", "against the teacher"],
        [
            [
                name,
                f"{r['accuracy']:.4f}",
                f"{r['accuracy_interval'][0]:.4f} to {r['accuracy_interval'][1]:.4f}",
                f"{r['ece']:.4f}",
                str(difference(measured[name], measured[config.names[0]])) if name != config.names[0] else "",
            ]
            for name, r in reports.items()
        ],
    )
    reasons = list(dict.fromkeys(reason for s in stats.values() for reason in s["accounting"]))
    accounting = page.table(
        ["pseudo-labels for", *(reason.replace("_", " ") for reason in reasons), "used, repeats counted"],
        [
            [name, *(f"{s['accounting'].get(reason, 0):,}" for reason in reasons), f"{sum(s['after']):,}"]
            for name, s in stats.items()
        ],
    )
    labels = [page.picture(inputs[f"{n}_selection"].dir / "class_counts.png", f"Classes for {n}") for n in stats]
    best = config.names[-1]
    confused = _confused(reports[best])
    sections = {
        "Rounds": [
            rounds,
            page.picture(ctx.path / "rounds.png", "Accuracy by round, and the teachers' confidences", wide=True),
        ],
        "Pseudo-labels": [accounting, *labels],
        f"Errors of {best}": [
            page.picture(
                inputs[f"{best}_report"].dir / "confusion.png", "Confusion matrix, per cent of the true class"
            ),
            page.table(["true class", "predicted", "images"], confused) if confused else "",
        ],
    }
    stood = {name: inputs[f"{name}_robustness"] for name in config.names if f"{name}_robustness" in inputs}
    if stood:
        sections["Robustness"] = robustness_parts(
            {name: (read_json(r.dir / "report.json"), r) for name, r in stood.items()}
        )
    (ctx.path / "report.html").write_text(page.page("Noisy Student", sections), "utf-8")
    gain = accuracies[-1] - accuracies[0]
    write_json(ctx.path / "summary.json", {"accuracy": dict(zip(config.names, accuracies, strict=True)), "gain": gain})
    return Report(path=str(ctx.path), metrics={"gain": gain})


def _confused(report: dict) -> list[list[object]]:
    names = report["classes"]
    pairs = [
        (count, i, j) for i, row in enumerate(report["confusion"]) for j, count in enumerate(row) if i != j and count
    ]
    return [[names[i], names[j], count] for count, i, j in sorted(pairs, reverse=True)[:8]]
