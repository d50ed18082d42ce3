"""All that was found about one checkpoint, on one page."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sslscale.graph.artifacts import Artifact, Report
from sslscale.graph.context import RunContext
from sslscale.graph.dag import cpu_only
from sslscale.storage.jsonio import read_json, write_json


@dataclass(frozen=True, kw_only=True)
class CheckpointReportConfig:
    """Which fine-tunings there are: shares of the labels, and how many seeds of each."""

    labels: tuple[float, ...]
    seeds: int
    version: int = field(default=1, init=False)


@cpu_only
def checkpoint_report(ctx: RunContext, config: CheckpointReportConfig, **inputs: Artifact) -> Report:
    """Write report.html and summary.json from the reports of the protocols, whichever there are."""
    from sslscale.report import page
    from sslscale.report.captions import retrieval_parts
    from sslscale.report.robustness import robustness_parts
    from sslscale.report.scenes import detection_parts
    from sslscale.report.sound import sound_parts

    found = {name: read_json(report.dir / "report.json") for name, report in inputs.items()}
    sections: dict[str, list[str]] = {}
    metrics: dict[str, float] = {}
    if "classify" in found:
        sections["As a classifier"] = [
            page.table(_HEADER, [_row("its own classes", found["classify"])]),
            page.picture(inputs["classify"].dir / "confusion.png", "Confusion matrix, per cent of the true class"),
        ]
    if "zero_shot" in found:
        sections["By class names alone"] = [
            page.table(_HEADER, [_row("zero-shot", found["zero_shot"])]),
            page.picture(inputs["zero_shot"].dir / "confusion.png", "Confusion matrix, per cent of the true class"),
        ]
    if "captions" in found:
        sections["Captions"] = list(retrieval_parts(found["captions"], inputs["captions"].dir))
    if "sound" in found:
        sections["Sound"] = list(sound_parts(found["sound"], inputs["sound"].dir))
    if "probe" in found:
        rows = {n: r for n, r in found["probe"].items() if isinstance(r, dict) and "accuracy" in r}
        parts = [page.table(_HEADER, [_row(name, row) for name, row in rows.items()])] if rows else []
        for name in ("retrieval", "clustering"):
            if numbers := found["probe"].get(name):
                parts.append(page.table([name, ""], [[k.replace("_", " "), f"{v:.4f}"] for k, v in numbers.items()]))
        parts.append(page.picture(inputs["probe"].dir / "gallery.png", "Nearest images", wide=True))
        sections["Frozen features"] = parts
    if "layerwise" in found:
        layers = found["layerwise"]["layers"]
        sections["Layer by layer"] = [
            page.picture(inputs["layerwise"].dir / "layers.png", "Accuracy against depth, 95 % intervals", wide=True),
            page.table(
                ["layer", "features", *_HEADER[1:4]], [[x["layer"], x["features"], *_row("", x)[1:4]] for x in layers]
            ),
        ]
    tuned: list[list[str]] = []
    for share in config.labels:
        start = f"{100 * share:g}pct"
        values = {
            kind: [r["accuracy"] for name, r in found.items() if f"{name}_".startswith(f"{kind}_{start}_")]
            for kind in ("finetune", "scratch")
        }
        if not values["finetune"]:
            continue
        for kind, accuracies in values.items():
            metrics[f"{kind}_{start}_accuracy"] = statistics.mean(accuracies)
        gain = [100 * (a - b) for a, b in zip(values["finetune"], values["scratch"], strict=True)]
        tuned.append(
            [
                f"{100 * share:g} %",
                _spread(values["finetune"]),
                _spread(values["scratch"]),
                f"{statistics.mean(gain):+.1f}",
            ]
        )
    if tuned:
        sections["Fine-tuning"] = [
            page.table(["labels", "from the checkpoint", "from scratch", "points gained"], tuned)
        ]
    objects = [name for name in found if name.startswith(("detect", "segmentation", "patches"))]
    if objects:
        parts = [part for name in objects for part in detection_parts(name, found[name], inputs[name].dir)]
        sections["Objects"] = [*_compared({name: found[name] for name in objects}), *parts]
    if "robustness" in found:
        sections["Robustness"] = robustness_parts({"checkpoint": (found["robustness"], inputs["robustness"])})
    (ctx.path / "report.html").write_text(page.page("Evaluation", sections), "utf-8")
    write_json(ctx.path / "summary.json", {"protocols": found, "finetune": metrics})
    return Report(path=str(ctx.path), metrics=metrics)


_HEADER = ["protocol", "accuracy", "95 % interval", "top-5", "calibration error"]


def _row(name: str, row: dict[str, Any]) -> list[str]:
    low, high = row["accuracy_interval"]
    return [
        name,
        f"{row['accuracy']:.4f}",
        f"{low:.4f} to {high:.4f}",
        f"{row['top5_accuracy']:.4f}",
        f"{row['ece']:.4f}",
    ]


def _compared(found: Mapping[str, Any]) -> list[str]:
    """Each protocol above the checkpoint's backbone and above a random one, over the seeds."""
    from sslscale.report import page

    rows = []
    for protocol in ("detection", "segmentation", "patches"):
        values: dict[str, list[float]] = {"checkpoint": [], "random": []}
        for name, report in found.items():
            for start, own in values.items():
                if f"{name}_".startswith(f"{protocol}_{start}_"):
                    own.append(report["miou"] if "miou" in report else report["boxes"]["ap"])
        if values["checkpoint"]:
            gain = statistics.mean(values["checkpoint"]) - statistics.mean(values["random"])
            rows.append([protocol, *map(_spread, values.values()), f"{100 * gain:+.1f}"])
    return [page.table(["AP or mIoU", "checkpoint", "random backbone", "points gained"], rows)] if rows else []


def _spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"
