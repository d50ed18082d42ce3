"""I-JEPA's draws: target blocks of an image's patches, and the patches of a context block outside of them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sslscale.data import rng
from sslscale.shapes import Bool, Int

_TRIED = 256  # places of blocks that are drawn to learn how many context patches are left
_REDRAWS = 8  # places that are tried for an image whose targets leave too few


class Sizes(NamedTuple):
    """Height and width of the blocks of one step, in patches, and how many context patches an image has."""

    context: tuple[int, int]
    target: tuple[int, int]
    seen: int


class Places(NamedTuple):
    """Patches by their places, row by row."""

    seen: Int[Tensor, "images seen"]
    targets: Int[Tensor, "images targets hidden"]


def block_size(side: int, share: float, aspect: float) -> tuple[int, int]:
    """Height and width of a block of about this share of side x side patches, of height / width `aspect`."""
    area = share * side * side
    height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    return min(max(height, 1), side), min(max(width, 1), side)


def draw_sizes(
    step: int,
    side: int,
    context: tuple[float, float],
    target: tuple[float, float],
    aspect: tuple[float, float],
    targets: int,
) -> Sizes:
    """The sizes of a step, which all images and all workers share.

    The authors' code cuts the context of all images of a worker's batch to the least number of patches that one has
    left. Here that number is the least among places drawn from the step alone, so that any number of workers agree.
    """
    one = torch.zeros(1, dtype=torch.int64)
    a, b, c = rng.uniforms(rng.stream_seed(0, "sizes"), one + step, one, 3)[0].tolist()
    low, high = context
    around = block_size(side, low + (high - low) * a, 1.0)
    low, high = target
    hidden = block_size(side, low + (high - low) * b, aspect[0] + (aspect[1] - aspect[0]) * c)
    sizes = Sizes(around, hidden, 0)
    left, _ = _draw(step, -1 - torch.arange(_TRIED), side, sizes, targets, 0)
    return sizes._replace(seen=max(int(left.sum(1).min()), 1))


def draw_places(step: int, index: Int[Tensor, " images"], side: int, sizes: Sizes, targets: int) -> Places:
    """Target blocks of each image, and `sizes.seen` patches of its context block, drawn from all that are left.

    An image whose targets leave fewer is drawn again; the rare one that has too few every time sees some of them twice.
    """
    left, hidden = _draw(step, index, side, sizes, targets, 0)
    for attempt in range(1, _REDRAWS):
        again, others = _draw(step, index, side, sizes, targets, attempt)
        few = left.sum(1) < sizes.seen
        left, hidden = torch.where(few[:, None], again, left), torch.where(few[:, None, None], others, hidden)
    order = rng.uniforms(rng.stream_seed(0, "context"), torch.full_like(index, step), index, side * side)
    order = torch.where(left, order, 2.0).argsort(1)  # those that are left come first
    place = torch.arange(sizes.seen)[None] % left.sum(1, keepdim=True).clamp(min=1)
    return Places(order.gather(1, place), hidden)


def _draw(
    step: int, index: Tensor, side: int, sizes: Sizes, targets: int, attempt: int
) -> tuple[Bool[Tensor, "images patches"], Int[Tensor, "images targets hidden"]]:
    """Which patches of the context block no target has, and the patches of the targets, for one draw of places."""
    seed = rng.stream_seed(attempt, "places")
    draws = rng.uniforms(seed, torch.full_like(index, step), index, 2 * (targets + 1)).view(len(index), -1, 2)
    corner = (draws[:, 0] * (side + 1 - torch.tensor(sizes.context))).long()
    rows, columns = torch.arange(side), torch.arange(side)
    inside = (rows >= corner[:, :1]) & (rows < corner[:, :1] + sizes.context[0])
    left = inside[:, :, None] & ((columns >= corner[:, 1:]) & (columns < corner[:, 1:] + sizes.context[1]))[:, None]
    corners = (draws[:, 1:] * (side + 1 - torch.tensor(sizes.target))).long()
    height, width = (torch.arange(n) for n in sizes.target)
    down, across = corners[..., :1] + height, corners[..., 1:] + width
    hidden = (down[..., :, None] * side + across[..., None, :]).flatten(2)
    left = left.flatten(1).scatter(1, hidden.flatten(1), False)
    return left, hidden
