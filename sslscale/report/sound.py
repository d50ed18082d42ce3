"""Figures of frames and their sound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sslscale.report import page
from sslscale.report.figures import new_figure


def sound_parts(found: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """The numbers of sound retrieval, and its figure in a folder."""
    ways = ("sound_to_image", "image_to_sound", "chance")
    names = list(found["chance"])
    rows = [[way.replace("_", " "), *(f"{100 * found[way][name]:.1f}" for name in names)] for way in ways]
    yield page.table(["%", *(name.replace("_", " ") for name in names)], rows)
    shifts = found["shifts"]
    yield page.text(
        f"{found['clips']:,} clips. Of {shifts['starts']} windows of its own sound, the nearest is the right one in "
        f"{100 * shifts['exact']:.1f} % (chance {100 * shifts['chance_exact']:.1f} %), within {shifts['tolerance']} "
        f"frames in {100 * shifts['within']:.1f} % (chance {100 * shifts['chance_within']:.1f} %)."
    )
    yield page.picture(folder / "sounds.png", "Sounds, their own frame, and the frames nearest to them", wide=True)


def nearest_frames(
    folder: Path, sounds: Sequence[Any], own: Sequence[Any], images: Sequence[Sequence[Any]], right: Any
) -> None:
    """sounds.png: a row for each sound, a spectrogram (mels, times), with its own frame (height, width, 3) and those
    that are nearest to it, its own framed in green where `right` says so."""
    columns = 3 + max(map(len, images))
    figure = new_figure(1.1 * columns, 1.2 * len(sounds))
    grid = figure.add_gridspec(len(sounds), columns)
    for row, (sound, frame, found) in enumerate(zip(sounds, own, images, strict=True)):
        axes = figure.add_subplot(grid[row, :2])
        axes.imshow(sound, origin="lower", aspect="auto", cmap="magma")
        axes.set_xticks([])
        axes.set_yticks([])
        for column, image in enumerate([frame, *found]):
            axes = figure.add_subplot(grid[row, 2 + column])
            axes.imshow(image)
            axes.set_xticks([])
            axes.set_yticks([])
            if not row:
                axes.set_title("own" if not column else f"{column}", fontsize=8)
            for spine in axes.spines.values():
                spine.set(color="tab:green" if column and right[row][column - 1] else "tab:gray", linewidth=2)
    figure.savefig(folder / "sounds.png", dpi=110)
