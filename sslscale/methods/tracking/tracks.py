"""Patches followed through clips by block matching, without gradient and without a wait for the device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale.shapes import Bool, Float, Int

_CHANGE = 0.1  # of a normalised gray value, from one frame to the next: a point that moves


def crop(
    frames: Float[Tensor, "batch channels h w"], place: Int[Tensor, "batch 2"], side: int
) -> Float[Tensor, "batch channels side side"]:
    """The patches of `side` pixels whose upper left corners (y, x) are given."""
    span = torch.arange(side, device=frames.device)
    rows, columns = place[:, 0, None] + span, place[:, 1, None] + span
    batch = torch.arange(len(frames), device=frames.device)[:, None, None]
    return frames[batch, :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def most_motion(gray: Float[Tensor, "batch frames h w"], side: int) -> Int[Tensor, "batch 2"]:
    """The corner (y, x) of the patch of the first frame that changes most from frame to frame."""
    change = (gray[:, 1:] - gray[:, :-1]).abs().mean(1, keepdim=True)
    total = F.avg_pool2d(change, side, stride=1)[:, 0]
    best = total.flatten(1).argmax(1)
    return torch.stack([best // total.shape[2], best % total.shape[2]], 1)


def moving_share(gray: Float[Tensor, "batch frames h w"]) -> Float[Tensor, " batch"]:
    """Of the points of the first frames that stand out from their neighbours, the share that changes."""
    first = gray[:, :-1]
    down, right = F.pad(first.diff(dim=2), (0, 0, 0, 1)), F.pad(first.diff(dim=3), (0, 1))
    edge = (down.square() + right.square()).sqrt()
    point = edge > edge.mean((2, 3), keepdim=True) + edge.std((2, 3), keepdim=True)
    moved = (gray[:, 1:] - first).abs() > _CHANGE
    return (point & moved).sum((1, 2, 3)) / point.sum((1, 2, 3)).clamp(min=1)


def follow(
    gray: Float[Tensor, "batch frames h w"], place: Int[Tensor, "batch 2"], side: int, search: int
) -> Int[Tensor, "batch 2"]:
    """Where the patch at `place` of the first frame is in the last: from frame to frame the place within `search`
    pixels with the least squared difference to the patch of the frame before."""
    height, width = gray.shape[2:]
    limit = torch.stack([_full(height - side, place), _full(width - side, place)], 1)
    reach = 2 * search + 1
    for before, after in zip(gray.unbind(1)[:-1], gray.unbind(1)[1:], strict=True):
        patch = crop(before[:, None], place, side)
        around = crop(F.pad(after[:, None], (search,) * 4, mode="replicate"), place, side + 2 * search)
        candidates = F.unfold(around, side)  # (batch, side * side, reach * reach)
        differences = (candidates - patch.flatten(1)[:, :, None]).square().sum(1)
        best = (differences + 1e-4 * _distance(search, differences)).argmin(1)  # where all are alike: stay
        shift = torch.stack([best // reach, best % reach], 1) - search
        place = torch.minimum((place + shift).clamp(min=0), limit)
    return place


def _full(value: int, like: Tensor) -> Tensor:
    return torch.full((len(like),), value, dtype=like.dtype, device=like.device)


def _distance(search: int, like: Tensor) -> Float[Tensor, " candidates"]:
    span = torch.arange(-search, search + 1, device=like.device, dtype=like.dtype)
    return (span[:, None].square() + span.square()).flatten()


def usable(share: Float[Tensor, " batch"], moving: tuple[float, float]) -> Bool[Tensor, " batch"]:
    """Which clips have neither too few nor too many moving points."""
    return (share >= moving[0]) & (share <= moving[1])
