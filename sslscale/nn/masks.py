"""Which patches of an image a method hides."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sslscale.data import rng
from sslscale.shapes import Bool, Float, Int

_BLOCKS = 20  # that are tried for an image
BLOCK_DRAWS = 2 + 4 * _BLOCKS
_SMALLEST, _ASPECT = 4, 0.3  # patches of a block at least; its lowest ratio of height to width


def patch_orders(step: int, index: Int[Tensor, " images"], count: int) -> Int[Tensor, "images patches"]:
    """An order of each image's `count` patches, drawn for a step: the first ones are a random part of them."""
    return rng.uniforms(rng.stream_seed(0, "masks"), torch.full_like(index, step), index, count).argsort(1)


def block_masks(
    draws: Float[Tensor, "batch draws"], side: int, chance: float, share: tuple[float, float]
) -> Bool[Tensor, "batch patches"]:
    """Masks of side x side patches from BLOCK_DRAWS uniform numbers an image.

    With `chance` an image is masked; then rectangles are laid over it until one more would exceed its number of
    patches, which is uniform in `share` (Bao et al. 2022, arXiv:2106.08254, algorithm 1).
    """
    wanted = (share[0] + (share[1] - share[0]) * draws[:, 1]) * side * side
    wanted = wanted.round().clamp(min=1) * (draws[:, 0] < chance)
    area, aspect, top, left = draws[:, 2:].view(len(draws), _BLOCKS, 4).unbind(2)
    smallest = min(_SMALLEST, side)
    area = smallest + (wanted[:, None] - smallest).clamp(min=0) * area
    aspect = torch.exp(math.log(_ASPECT) * (1 - 2 * aspect))
    height = (area * aspect).sqrt().round().clamp(1, side)
    width = (area / aspect).sqrt().round().clamp(1, side)
    top, left = (top * (side - height + 1)).floor(), (left * (side - width + 1)).floor()
    place = torch.arange(side, device=draws.device)
    rows = (place >= top[..., None]) & (place < (top + height)[..., None])
    columns = (place >= left[..., None]) & (place < (left + width)[..., None])
    masks = torch.zeros(len(draws), side, side, dtype=torch.bool, device=draws.device)
    for number in range(_BLOCKS):  # over blocks, not over images
        more = masks | (rows[:, number, :, None] & columns[:, number, None, :])
        fits = more.sum((1, 2)) <= wanted
        masks = torch.where(fits[:, None, None], more, masks)
    return masks.flatten(1)
