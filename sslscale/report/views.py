"""What a network is shown: the views of the first images of a batch, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from sslscale.data.batch import Batch

_IMAGES, _VIEWS, _SIDE = 6, 8, 72


def draw_views(file: Path, batch: Mapping[str, Batch], mean: Sequence[float], std: Sequence[float]) -> None:
    """Write a PNG with a row for each of a few images of every stream, and their views side by side."""
    rows = []
    for part in batch.values():
        views = [_pixels(view[:_IMAGES], mean, std) for view in part.views[:_VIEWS]]
        blank = [torch.full_like(views[0], 255)] * (_VIEWS - len(views)) if views else []
        if views:
            rows.append(torch.cat([*views, *blank], 3))  # (images, 3, side, views * side)
    if not rows:
        return
    widest = max(min(len(part.views), _VIEWS) for part in batch.values())
    picture = torch.cat([row.permute(0, 2, 3, 1).flatten(0, 1) for row in rows])[:, : widest * (_SIDE + 4)]
    Image.fromarray(picture.numpy()).save(file)


def _pixels(view: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Normalised images as uint8 squares of one side, with a white margin, on the CPU."""
    images = view.detach().float().cpu()
    images = images * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    images = F.interpolate(images, (_SIDE, _SIDE), mode="nearest-exact").clamp(0, 1)
    return F.pad((255 * images).to(torch.uint8), (0, 4, 0, 4), value=255)
