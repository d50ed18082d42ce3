"""Figures and tables of lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sslscale.report import page
from sslscale.report.figures import new_figure


def reading_parts(name: str, found: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """The numbers of one reading, and its worst lines."""
    rows = [
        [label, f"{100 * found[key]:.2f}", "{:.2f} to {:.2f}".format(*(100 * x for x in found[f"{key}_interval"]))]
        for key, label in (("cer", "CER"), ("wer", "WER"), ("exact", "exact lines"))
    ]
    yield page.table([f"{name}, %", "", "95 % interval"], rows)
    unknown = found["unknown_characters"]
    more = f" Characters that the alphabet lacks: {' '.join(unknown)}" if unknown else ""
    yield page.text(f"{found['lines']:,} lines of the split {found['split']}.{more}")
    yield page.picture(folder / "worst.png", f"{name}: the lines with the most errors", wide=True)


def line_pictures(file: Path, images: Sequence[Any], true: Sequence[str], said: Sequence[str]) -> None:
    """Lines (height, width, 3), each with its transcript and, in red where they differ, what was read."""
    count = max(len(images), 1)
    figure = new_figure(9, 0.5 * count)
    grid = figure.add_gridspec(count, 2, width_ratios=[1, 2])
    for row, (image, text, reading) in enumerate(zip(images, true, said, strict=True)):
        axes = figure.add_subplot(grid[row, 0])
        axes.imshow(image)
        axes.axis("off")
        words = figure.add_subplot(grid[row, 1])
        words.axis("off")
        plain, read = (x.replace("$", r"\$") for x in (text, reading or "(nothing)"))
        words.text(0, 0.55, plain, fontsize=9, va="bottom")
        words.text(0, 0.45, read, fontsize=9, va="top", color="tab:gray" if text == reading else "tab:red")
    figure.savefig(file, dpi=110)
