"""Positions of a class token and a square of patches."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale.shapes import Float


def resize_positions(positions: Float[Tensor, "1 tokens width"], side: int) -> Float[Tensor, "1 _ width"]:
    """Positions of a class token and a square of patches, for a square of another side: bicubic."""
    own = math.isqrt(positions.shape[1] - 1)
    if own == side:
        return positions
    square = positions[:, 1:].unflatten(1, (own, own)).permute(0, 3, 1, 2).float()
    square = F.interpolate(square, (side, side), mode="bicubic", align_corners=False, antialias=side < own)
    return torch.cat([positions[:, :1], square.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)], 1)


def sincos_positions(width: int, side: int) -> Float[Tensor, "1 _ width"]:
    """Fixed positions of a class token (0) and a square of patches: half the width tells the column, half the row, each
    by sines and cosines of frequencies from 1 down to 1 / 10,000 (Vaswani et al. 2017; MAE's code)."""
    frequency = 1 / 10_000 ** (torch.arange(width // 4) / (width // 4))
    angle = torch.arange(side)[:, None] * frequency
    one = torch.cat([angle.sin(), angle.cos()], 1)  # (side, width / 2)
    both = torch.cat([one[None].expand(side, -1, -1), one[:, None].expand(-1, side, -1)], 2)
    return torch.cat([torch.zeros(1, width), both.flatten(0, 1)])[None]
