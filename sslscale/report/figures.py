"""The figures of each stage, as PNG files beside its numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sslscale.storage.jsonio import read_json

_MAX_NAMED = 30  # classes whose names still fit along an axis
_LONGEST = 24  # characters of such a name


def new_figure(width: float = 6.4, height: float = 4.0) -> Any:
    """A figure without a display or global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _short(name: str) -> str:
    """A name of a user's as it fits beside an axis; its dollars are no mathematics."""
    return (name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…").replace("$", r"\$")


def learning_curves(folder: Path) -> None:
    """curves.png of metrics.jsonl: the losses, and the accuracies if there are any."""
    file = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []
    if not rows:
        return
    groups = {
        "loss": sorted({name for row in rows for name in row if name.endswith("loss")}),
        "share": sorted({name for row in rows for name in row if name.endswith(("accuracy", "agreement"))}),
    }
    groups = {title: names for title, names in groups.items() if names}
    figure = new_figure(4.6 * len(groups), 3.4)
    for number, (title, names) in enumerate(groups.items()):
        axes = figure.add_subplot(1, len(groups), number + 1)
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            axes.plot(*zip(*points, strict=True), label=name.replace("_", " "))
        axes.set(xlabel="step", ylabel=title)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(folder / "curves.png", dpi=110)


def confusion_figure(folder: Path, confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> None:
    """confusion.png: rows are true classes, each normalised to 1."""
    import numpy as np

    matrix = np.asarray(confusion, float)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    figure = new_figure(5.4, 4.6)
    axes = figure.add_subplot()
    drawn = axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(drawn, ax=axes, label="share of the true class")
    axes.set(xlabel="predicted", ylabel="true")
    if len(classes) <= _MAX_NAMED:
        axes.set_xticks(range(len(classes)), list(map(_short, classes)), rotation=90)
        axes.set_yticks(range(len(classes)), list(map(_short, classes)))
    if len(classes) <= 12:
        for i, row in enumerate(share):
            for j, value in enumerate(row):
                if value >= 0.005:
                    colour = "white" if value > 0.5 else "black"
                    axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=colour)
    figure.savefig(folder / "confusion.png", dpi=110)


def selection_figures(folder: Path) -> None:
    """confidence.png and class_counts.png of stats.json."""
    stats = read_json(folder / "stats.json")
    figure = new_figure()
    axes = figure.add_subplot()
    draw_confidence(axes, stats, "pseudo-labels")
    axes.axvline(stats["threshold"], color="tab:red", linestyle="--", label=f"threshold {stats['threshold']:g}")
    axes.set(xlabel="confidence", ylabel="images")
    axes.legend(frameon=False)
    figure.savefig(folder / "confidence.png", dpi=110)
    figure = new_figure(max(6.4, min(0.3 * len(stats["classes"]), 16)))
    axes = figure.add_subplot()
    draw_class_counts(axes, stats)
    figure.savefig(folder / "class_counts.png", dpi=110)


def draw_confidence(axes: Any, stats: Mapping[str, Any], label: str) -> None:
    """The histogram of the teacher's confidences, as a line of steps."""
    import numpy as np

    edges = np.linspace(0, 1, len(stats["histogram"]) + 1)
    axes.stairs(stats["histogram"], edges, label=label)
    axes.set_yscale("log" if max(stats["histogram"]) > 0 else "linear")
    axes.grid(alpha=0.3)


def draw_class_counts(axes: Any, stats: Mapping[str, Any]) -> None:
    """Pseudo-labelled images of each class, before and after balancing."""
    import numpy as np

    place = np.arange(len(stats["classes"]))
    axes.bar(place - 0.2, stats["before"], 0.4, label="above the threshold")
    axes.bar(place + 0.2, stats["after"], 0.4, label="used, repeats counted")
    if len(place) <= _MAX_NAMED:
        turn = 90 if max(map(len, stats["classes"])) > 3 else 0
        axes.set_xticks(place, list(map(_short, stats["classes"])), rotation=turn)
    axes.set(xlabel="class", ylabel="images")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def cluster_sizes(folder: Path, counts: Sequence[int]) -> None:
    """sizes.png: images of each cluster, the largest first."""
    figure = new_figure()
    axes = figure.add_subplot()
    axes.plot(range(1, len(counts) + 1), sorted(counts, reverse=True))
    axes.axhline(sum(counts) / len(counts), color="tab:gray", linestyle="--", label="mean")
    axes.set(xlabel="cluster", ylabel="images", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(folder / "sizes.png", dpi=110)


def layer_curve(folder: Path, names: Sequence[str], accuracies: Sequence[float], intervals: Sequence[Any]) -> None:
    """layers.png: the accuracy of a linear classifier on the features of each layer, from the first to the last."""
    figure = new_figure(max(4.8, 0.6 * len(names) + 2), 3.6)
    axes = figure.add_subplot()
    errors = [[a - i[0] for a, i in zip(accuracies, intervals, strict=True)]]
    errors.append([i[1] - a for a, i in zip(accuracies, intervals, strict=True)])
    axes.errorbar(range(len(names)), accuracies, yerr=errors, marker="o", capsize=4)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set(ylabel="accuracy of a linear classifier")
    axes.grid(alpha=0.3)
    figure.savefig(folder / "layers.png", dpi=110)


def gallery(folder: Path, images: Sequence[Any], names: Sequence[str], columns: int) -> None:
    """gallery.png: rows of images (height, width, 3): the one asked for, then those found, wrong ones in red."""
    rows = len(images) // columns
    figure = new_figure(1.15 * columns, 1.35 * rows)
    for number, (image, name) in enumerate(zip(images, names, strict=True)):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.imshow(image)
        axes.set_xticks([])
        axes.set_yticks([])
        asked = names[number - number % columns]
        first = number % columns == 0
        colour = "black" if first else "tab:green" if name == asked else "tab:red"
        axes.set_title(_short(name), fontsize=8, color=colour, fontweight="bold" if first else "normal")
        for spine in axes.spines.values():
            spine.set(color=colour, linewidth=2 if first else 1)
    figure.savefig(folder / "gallery.png", dpi=110)


def attention_figure(folder: Path, images: Any, weights: Any) -> None:
    """attention.png: each image (height, width, 3), its heads' mean over it, and each head (heads, side, side)."""
    shown = min(weights.shape[1], 8)
    columns = 2 + shown
    figure = new_figure(1.2 * columns, 1.3 * len(images))
    for row, (image, heads) in enumerate(zip(images, weights, strict=True)):
        for column in range(columns):
            axes = figure.add_subplot(len(images), columns, row * columns + column + 1)
            axes.set_xticks([])
            axes.set_yticks([])
            extent = (0, image.shape[1], image.shape[0], 0)
            if column < 2:
                axes.imshow(image, extent=extent)
            if column == 1:
                axes.imshow(heads.mean(0), extent=extent, alpha=0.6, cmap="inferno")
            elif column > 1:
                axes.imshow(heads[column - 2], extent=extent, cmap="inferno")
            if row == 0:
                axes.set_title(["image", "mean", *(f"head {n}" for n in range(shown))][column], fontsize=8)
    figure.savefig(folder / "attention.png", dpi=110)


def robustness_figure(folder: Path, report: Mapping[str, Any]) -> None:
    """robustness.png: error of each corruption by severity, and accuracy under attack by epsilon."""
    import numpy as np

    errors, attacks = report.get("corruptions", {}), report.get("attacks", {})
    shown = bool(errors) + bool(attacks)
    if not shown:
        return
    figure = new_figure(7.5 if errors else 4.6, 3.8) if shown == 1 else new_figure(11, 4.2)
    grid = figure.add_gridspec(1, shown, width_ratios=[2, 1] if shown == 2 else [1])
    if errors:
        axes = figure.add_subplot(grid[0])
        place = np.arange(len(errors))
        for severity in range(5):
            axes.bar(
                place + 0.16 * (severity - 2),
                [e[severity] for e in errors.values()],
                0.15,
                color=f"C{0}",
                alpha=0.25 + 0.15 * severity,
                label=f"severity {severity + 1}",
            )
        axes.axhline(report["clean_error"], color="black", linestyle="--", linewidth=1, label="clean")
        axes.set_xticks(place, [name.replace("_", " ") for name in errors], rotation=60, ha="right")
        axes.set(ylabel="error")
        axes.legend(frameon=False, ncols=3, fontsize=8)
    if attacks:
        axes = figure.add_subplot(grid[-1])
        for name, found in attacks.items():
            axes.plot([0.0, *map(float, found)], [1 - report["clean_error"], *found.values()], marker="o", label=name)
        axes.set(xlabel="epsilon, 255ths", ylabel="accuracy", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(folder / "robustness.png", dpi=110)


def parallel_coordinates(file: Path, columns: Mapping[str, Sequence[Any]], logarithmic: set[str]) -> None:
    """A line for each trial over one axis a column, coloured by the last column; words stand in the order they came."""
    import math

    from matplotlib import colormaps

    names = list(columns)
    figure = new_figure(max(5.0, 1.9 * len(names)), 4.0)
    axes = figure.add_subplot()
    heights, labels = [], []
    for name, values in columns.items():
        numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        words = list(dict.fromkeys(map(str, values)))
        numbers = [float(v) for v in values] if numeric else [float(words.index(str(v))) for v in values]
        if numeric and name in logarithmic:
            numbers = [math.log10(v) for v in numbers]
        low, high = min(numbers), max(numbers)
        heights.append([(v - low) / (high - low) if high > low else 0.5 for v in numbers])
        ends = (f"{min(values):.3g}", f"{max(values):.3g}") if numeric else (words[0], words[-1])
        labels.append(tuple(map(_short, ends)))
    for trial in range(len(heights[0])):
        share = heights[-1][trial]
        axes.plot(range(len(names)), [h[trial] for h in heights], color=colormaps["viridis"](share), alpha=0.8)
    for place, (low, high) in enumerate(labels):
        axes.axvline(place, color="tab:gray", linewidth=0.8)
        axes.annotate(low, (place, 0), (0, -12), textcoords="offset points", ha="center", fontsize=8)
        axes.annotate(high, (place, 1), (0, 5), textcoords="offset points", ha="center", fontsize=8)
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", pad=16)
    axes.set_yticks([])
    axes.set(ylim=(-0.02, 1.02), xlim=(-0.3, len(names) - 0.7))
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    figure.savefig(file, dpi=110)
