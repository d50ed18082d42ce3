"""Figures and tables of objects in images: what is there, and what was found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sslscale.report import page
from sslscale.report.figures import new_figure

_SHOWN = 0.5  # least score of a box that is drawn


class Scene(NamedTuple):
    """An image (h, w, 3) with its objects (data.objects.Objects), those that were found, and their scores."""

    image: Any
    true: Any
    found: Any
    scores: Any
    classes: Sequence[str]


def detection_parts(name: str, result: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """The numbers of one detector or segmentation network, and its scenes."""
    if "miou" in result:
        yield page.table(
            [f"{name}, %", "", "95 % interval"],
            [
                ["mIoU", f"{100 * result['miou']:.1f}", _interval(result, "miou")],
                ["pixels", f"{100 * result['pixel_accuracy']:.1f}", ""],
            ],
        )
    else:
        rows = []
        for kind in ("boxes", "masks"):
            if kind not in result:
                continue
            for key, label in (("ap", "AP"), ("ap50", "AP50"), ("ap75", "AP75")):
                own = result[kind]
                rows.append([f"{kind}: {label}", f"{100 * own[key]:.1f}", _interval(own, key)])
        yield page.table([f"{name}, %", "", "95 % interval"], rows)
        yield page.text(f"{result['objects']:,} objects in {result['images']:,} images of the split {result['split']}.")
    if (folder / "scenes.png").is_file():
        yield page.picture(folder / "scenes.png", f"{name}: what is there, and what was found", wide=True)


def _interval(result: Mapping[str, Any], key: str) -> str:
    found = result.get(f"{key}_interval")
    return "" if found is None else f"{100 * found[0]:.1f} to {100 * found[1]:.1f}"


def draw_scenes(file: Path, scenes: Sequence[Scene]) -> None:
    """Pairs of pictures: true boxes in green on the left, found ones in orange, with class and score, on the right."""
    columns = 2 if len(scenes) < 3 else 4
    rows = max(-(-len(scenes) * 2 // (2 * (columns // 2))), 1)
    figure = new_figure(2.6 * columns, 2.8 * rows)
    for n, scene in enumerate(scenes):
        row, column = divmod(2 * n, columns)
        for offset, (objects, scores, colour) in enumerate(
            ((scene.true, None, "lime"), (scene.found, scene.scores, "orange"))
        ):
            axes = figure.add_subplot(rows, columns, row * columns + column + offset + 1)
            axes.imshow(scene.image)
            axes.axis("off")
            axes.set_title("true" if scores is None else f"found (score {_SHOWN:g} or more)", fontsize=8)
            _draw_objects(axes, objects, scores, colour, scene.classes)
    figure.tight_layout(pad=0.4)
    figure.savefig(file, dpi=110)


def _draw_objects(axes: Any, objects: Any, scores: Any, colour: str, classes: Sequence[str]) -> None:
    import numpy as np
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    from sslscale.data.objects import decode_mask

    for n, (x0, y0, x1, y1) in enumerate(objects.boxes):
        if scores is not None and scores[n] < _SHOWN:
            continue
        style = ":" if objects.crowd[n] else "-"
        axes.add_patch(
            Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=1.2, linestyle=style)
        )
        text = classes[int(objects.labels[n])] + ("" if scores is None else f" {scores[n]:.2f}")
        axes.text(
            x0, y0, text, fontsize=6, va="bottom", color="black",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
        )  # fmt: skip
        if objects.masks and objects.masks[n] is not None:
            mask = decode_mask(objects.masks[n], objects.size)
            overlay = np.zeros((*mask.shape, 4))
            overlay[mask] = (*to_rgb(colour), 0.45)
            axes.imshow(overlay)


def draw_maps(file: Path, images: Sequence[Any], true: Any, said: Any, classes: Sequence[str]) -> None:
    """Images (h, w, 3), the true class of each pixel (255: ignored), and what was said."""
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.patches import Patch

    palette = colormaps["tab20"](np.arange(len(classes) + 1) % 20)[:, :3]
    palette[0] = 0.93
    figure = new_figure(7.5, 2.6 * max(len(images), 1))
    for n, image in enumerate(images):
        for column, (title, what) in enumerate((("image", None), ("true", true[n]), ("found", said[n]))):
            axes = figure.add_subplot(len(images), 3, 3 * n + column + 1)
            axes.axis("off")
            axes.set_title(title, fontsize=8)
            if what is None:
                axes.imshow(image)
                continue
            ignored = what == 255
            coloured = palette[np.where(ignored, 0, what)]
            coloured[ignored] = 0.6
            axes.imshow(coloured)
    shown = sorted({int(n) for maps in (true, said) for n in np.unique(maps)} - {255})
    handles = [Patch(color=palette[n], label=("(none)", *classes)[n]) for n in shown[:20]]
    handles.append(Patch(color="0.6", label="ignored"))
    figure.tight_layout(pad=0.4)
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
    figure.savefig(file, dpi=90, bbox_inches="tight")
