"""Mixtures of images of one batch and of their labels: mixup and CutMix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sslscale import distributed
from sslscale.data.geometry import box_mask
from sslscale.data.transfer import to_device
from sslscale.shapes import Float, Int


def mixup(
    images: Float[Tensor, "batch channels height width"],
    labels: Float[Tensor, "batch classes"],
    share: Float[Tensor, " batch"],
    partner: Int[Tensor, " batch"],
) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch classes"]]:
    """x = share x_i + (1 - share) x_partner, and so the labels (Zhang et al. 2018, arXiv:1710.09412, eq. in section 2).

    `share` is drawn from Beta(alpha, alpha); MixMatch takes max(share, 1 - share): each image stays nearest to itself.
    """
    a = share.view(-1, 1, 1, 1)
    return a * images + (1 - a) * images[partner], _mix_labels(labels, share, partner)


def cutmix(
    images: Float[Tensor, "batch channels height width"],
    labels: Float[Tensor, "batch classes"],
    share: Float[Tensor, " batch"],
    partner: Int[Tensor, " batch"],
    x: Float[Tensor, " batch"],
    y: Float[Tensor, " batch"],
) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch classes"]]:
    """Paste a box of the partner, of 1 - share of the area, centred at (x, y) in [0, 1), cut at the border.

    Labels mix by the area that was pasted (Yun et al. 2019, arXiv:1905.04899, eq. 1 and 2; integers as torchvision
    rounds them).
    """
    height, width = images.shape[-2:]
    box, area = _pasted(share, x, y, height, width)
    pasted = torch.where(box_mask(box, height, width)[:, None], images[partner], images)
    return pasted, _mix_labels(labels, 1 - area, partner)


def _pasted(
    share: Float[Tensor, " batch"], x: Float[Tensor, " batch"], y: Float[Tensor, " batch"], height: int, width: int
) -> tuple[Float[Tensor, "batch 4"], Float[Tensor, " batch"]]:
    """CutMix's boxes (top, left, height, width), and which share of the area they cover."""
    reach = 0.5 * torch.sqrt(1 - share)
    boxes, area = [], torch.ones_like(share)
    for place, length in ((y, height), (x, width)):
        centre, half = (place * length).floor(), (reach * length).floor()
        first, last = (centre - half).clamp(min=0), (centre + half).clamp(max=length)
        boxes.append((first, last - first))
        area = area * (last - first) / length
    return torch.stack([boxes[0][0], boxes[1][0], boxes[0][1], boxes[1][1]], 1), area


Parts = Sequence[tuple[Float[Tensor, "_ channels height width"], Float[Tensor, "_ classes"]]]


def draw_partners(
    sizes: Sequence[int], alpha: float, seed: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[Float[Tensor, " images"], Int[Tensor, " images"]]:
    """The share that each image keeps and its partner, among parts of these sizes on all workers, from the seed."""
    count = sum(distributed.total(size) for size in sizes)
    generator = np.random.default_rng(seed)
    drawn = generator.beta(alpha, alpha, count)
    share = to_device(torch.from_numpy(np.maximum(drawn, 1 - drawn)).to(dtype), device)
    return share, to_device(torch.from_numpy(generator.permutation(count)), device)


def mix_parts(
    parts: Parts, share: Float[Tensor, " images"], partner: Int[Tensor, " images"]
) -> list[tuple[Float[Tensor, "_ channels height width"], Float[Tensor, "_ classes"]]]:
    """Mix every image of this worker with its partner among all parts of all workers."""
    images = torch.cat([distributed.gather(x) for x, _ in parts])
    labels = torch.cat([distributed.gather(y) for _, y in parts])
    result, start = [], 0
    for x, y in parts:
        place = distributed.rows(len(x))
        mine = slice(start + place.start, start + place.stop)
        a = share[mine]
        other = partner[mine]
        wide = a.view(-1, 1, 1, 1).to(x.dtype)
        result.append((wide * x + (1 - wide) * images[other], a[:, None] * y + (1 - a)[:, None] * labels[other]))
        start += distributed.total(len(x))
    return result


def mixup_with_all(
    parts: Parts, alpha: float, seed: int
) -> list[tuple[Float[Tensor, "_ channels height width"], Float[Tensor, "_ classes"]]]:
    """Mix every image with one drawn from all parts of all workers; it keeps the larger share (MixMatch,
    arXiv:1905.02249, eqs. 8 to 11).

    Partners and shares follow from the seed, so that an image meets the same ones on any number of workers.
    """
    labels = parts[0][1]
    return mix_parts(parts, *draw_partners([len(x) for x, _ in parts], alpha, seed, labels.device, labels.dtype))


class Mixture(NamedTuple):
    """How the images of one batch are mixed, alike for all: partners among all workers' images, the weight of each of
    an image's own pixels, and of its own label."""

    partner: Int[Tensor, " images"]
    pixels: Float[Tensor, "1 1 height width"]
    label: Float[Tensor, ""]


def draw_mixture(
    count: int, side: tuple[int, int], *, mixup_alpha: float, cutmix_alpha: float, seed: int, device: torch.device
) -> Mixture:
    """Mixup or CutMix of `count` images of all workers; with both alphas above 0 either by chance, from the seed."""
    generator = np.random.default_rng(seed)
    cut = cutmix_alpha > 0 and (mixup_alpha == 0 or generator.random() < 0.5)
    drawn = generator.beta(cutmix_alpha, cutmix_alpha) if cut else generator.beta(mixup_alpha, mixup_alpha)
    partner = torch.from_numpy(generator.permutation(count))
    share = torch.full((1,), float(drawn))
    x, y = (torch.full((1,), float(u)) for u in generator.random(2))
    if cut:
        box, area = _pasted(share, x, y, *side)
        pixels, label = 1 - box_mask(box, *side)[:, None].float(), 1 - area
    else:
        pixels, label = share.view(1, 1, 1, 1).expand(1, 1, *side).contiguous(), share
    return Mixture(*(to_device(value, device) for value in (partner, pixels, label[0])))


def mix(
    images: Float[Tensor, "batch channels height width"], labels: Float[Tensor, "batch classes"], mixture: Mixture
) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch classes"]]:
    """This worker's images and labels, mixed with those of their partners."""
    every, known = distributed.gather(images), distributed.gather(labels)
    partner = mixture.partner[distributed.rows(len(images))]
    mixed = mixture.pixels * images + (1 - mixture.pixels) * every[partner]
    return mixed.to(images.dtype), mixture.label * labels + (1 - mixture.label) * known[partner]


def mixed_batch(
    images: Float[Tensor, "batch channels height width"],
    labels: Float[Tensor, "batch classes"],
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    seed: int,
) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch classes"]]:
    """Mixup or CutMix of this worker's images with partners from all workers, one share for the whole batch.

    With both alphas above 0 each batch takes either by chance. Everything follows from the seed.
    """
    mixture = draw_mixture(
        distributed.total(len(images)),
        (images.shape[-2], images.shape[-1]),
        mixup_alpha=mixup_alpha,
        cutmix_alpha=cutmix_alpha,
        seed=seed,
        device=images.device,
    )
    return mix(images, labels, mixture)


def _mix_labels(labels: Tensor, share: Tensor, partner: Tensor) -> Tensor:
    return share[:, None] * labels + (1 - share)[:, None] * labels[partner]
