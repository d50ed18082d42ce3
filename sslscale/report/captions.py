"""Figures of images and their captions."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sslscale.report import page
from sslscale.report.figures import new_figure

_LONGEST = 60


def retrieval_parts(found: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """The numbers of caption retrieval, and its figures in a folder."""
    ways = [name for name, value in found.items() if isinstance(value, dict)]
    names = list(found[ways[0]])
    rows = [[way.replace("_", " "), *(f"{100 * found[way][name]:.1f}" for name in names)] for way in ways]
    yield page.table(["%", *(name.replace("_", " ") for name in names)], rows)
    yield page.text(f"{found['images']:,} images with {found['captions']:,} different captions.")
    yield page.picture(folder / "captions.png", "Captions and the images nearest to them, green if theirs", wide=True)
    yield page.picture(folder / "similarities.png", "Cosines of images (columns) and captions (rows)", wide=True)


def _shown(text: str, width: int) -> str:
    """A caption as it fits beside a picture; its dollars are no mathematics."""
    short = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return textwrap.fill(short, width).replace("$", r"\$")


def nearest_images(folder: Path, captions: Sequence[str], images: Sequence[Sequence[Any]], right: Any) -> None:
    """captions.png: a row for each caption, with the images (height, width, 3) that are nearest to it, those that have
    this caption framed in green; `right` says which do."""
    columns = 1 + max(map(len, images))
    figure = new_figure(1.3 * (columns + 1), 1.3 * len(captions))
    grid = figure.add_gridspec(len(captions), columns, width_ratios=[2, *[1] * (columns - 1)])
    for row, (caption, found) in enumerate(zip(captions, images, strict=True)):
        axes = figure.add_subplot(grid[row, 0])
        axes.text(1, 0.5, _shown(caption, 22), ha="right", va="center", fontsize=8)
        axes.axis("off")
        for column, image in enumerate(found):
            axes = figure.add_subplot(grid[row, 1 + column])
            axes.imshow(image)
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set(color="tab:green" if right[row][column] else "tab:gray", linewidth=2)
    figure.savefig(folder / "captions.png", dpi=110)


def similarity_matrix(folder: Path, images: Sequence[Any], captions: Sequence[str], cosines: Any) -> None:
    """similarities.png: the cosine of each image (a column) with each caption (a row)."""
    count = len(images)
    figure = new_figure(2.6 + 0.75 * count, 1.2 + 0.75 * count)
    grid = figure.add_gridspec(2, 1, height_ratios=[1, count], hspace=0)
    axes = figure.add_subplot(grid[1])
    axes.imshow(cosines.T, cmap="viridis", aspect="auto")
    axes.set_yticks(range(count), [_shown(caption, 30) for caption in captions], fontsize=8)
    axes.set_xticks([])
    middle = (cosines.max() + cosines.min()) / 2
    for i in range(count):
        for j in range(count):
            colour = "black" if cosines[j, i] > middle else "white"
            axes.text(j, i, f"{cosines[j, i]:.2f}", ha="center", va="center", fontsize=8, color=colour)
    top = figure.add_subplot(grid[0], sharex=axes)
    top.axis("off")
    for number, image in enumerate(images):
        inner = top.inset_axes((number / count + 0.05 / count, 0, 0.9 / count, 1))
        inner.imshow(image)
        inner.axis("off")
    figure.savefig(folder / "similarities.png", dpi=110)
