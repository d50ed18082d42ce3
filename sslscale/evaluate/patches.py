"""An image's features as the mean of its patches'."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sslscale.data.geometry import resized_crop
from sslscale.shapes import Float


class PatchMean(nn.Module):
    """A backbone on `count` patches of each image, evenly spread, each `area` of it and scaled to `size` pixels."""

    def __init__(self, backbone: nn.Module, count: int, area: float, size: int):
        super().__init__()
        self.backbone, self.side, self.area, self.size = backbone, math.isqrt(count), area, size

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch dim"]:
        length = max(round(math.sqrt(self.area) * x.shape[-1]), 1)
        starts = torch.linspace(0, x.shape[-1] - length, self.side, device=x.device).round()
        x, total = x.contiguous(), None
        for top in starts:
            for left in starts:
                box = torch.stack([top, left, *torch.full((2,), float(length), device=x.device)]).expand(len(x), 4)
                patch = resized_crop(x, box, self.size).contiguous(memory_format=torch.channels_last)
                found = self.backbone(patch)
                total = found if total is None else total + found
        assert total is not None
        return total / self.side**2
