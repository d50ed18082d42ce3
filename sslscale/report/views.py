"""What a network is shown, and what it makes of it: images of a batch as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from sslscale.data.batch import Batch
from sslscale.data.channels import as_rgb
from sslscale.methods.method import Picture

_IMAGES, _VIEWS, _SIDE = 6, 8, 72


def draw_views(file: Path, batch: Mapping[str, Batch], mean: Sequence[float], std: Sequence[float]) -> None:
    """Write a PNG with a row for each of a few images of every stream, and their views side by side."""
    rows = []
    for part in batch.values():
        shown = part.views[0].unbind(1) if part.views and part.views[0].ndim == 5 else part.views  # a clip's frames
        views = [_pixels(view[:_IMAGES], mean, std) for view in shown[:_VIEWS]]
        blank = [torch.full_like(views[0], 255)] * (_VIEWS - len(views)) if views else []
        if views:
            rows.append(torch.cat([*views, *blank], 3))  # (images, 3, side, views * side)
    if not rows:
        return
    clips = any(view.ndim == 5 for part in batch.values() for view in part.views)
    widest = _VIEWS if clips else max(min(len(part.views), _VIEWS) for part in batch.values())
    picture = torch.cat([row.permute(0, 2, 3, 1).flatten(0, 1) for row in rows])[:, : widest * (_SIDE + 4)]
    Image.fromarray(picture.numpy()).save(file)


def draw_pictures(file: Path, rows: Sequence[Picture], count: int = 8) -> None:
    """Write a PNG of rows of images with a caption below each; of more than `count` rows those that lie evenly."""
    chosen = [rows[number * len(rows) // count] for number in range(count)] if len(rows) > count else list(rows)
    if not chosen:
        return
    side, margin, line = 112, 6, 18
    width = max(max(len(row.images) for row in chosen) * (side + margin), 460)
    sheet = Image.new("RGB", (width, len(chosen) * (side + line + margin)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, row in enumerate(chosen):
        top = number * (side + line + margin)
        for column, image in enumerate(row.images):
            pixels = F.interpolate(image.detach().float().cpu()[None], (side, side), mode="nearest-exact")[0]
            array = (255 * pixels.clamp(0, 1)).to(torch.uint8).permute(1, 2, 0).numpy()
            sheet.paste(Image.fromarray(array), (column * (side + margin), top))
        pen.text((0, top + side + 2), row.caption, fill="black")
    sheet.save(file)


def _pixels(view: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Normalised images as uint8 squares of one side, with a white margin, on the CPU."""
    images = view.detach().float().cpu()
    images = as_rgb(images * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1))
    images = F.interpolate(images, (_SIDE, _SIDE), mode="nearest-exact").clamp(0, 1)
    return F.pad((255 * images).to(torch.uint8), (0, 4, 0, 4), value=255)
