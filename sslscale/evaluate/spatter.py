"""Spatter: drops of water or mud on the lens. The one corruption that needs edges and distances of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sslscale.evaluate.fields import apply, gaussian_matrix
from sslscale.shapes import Bool, Float

_LOW, _HIGH = 50, 150  # Canny's thresholds
_FAR = 20  # what distances are cut at
_STRAIGHT, _SLANT, _KNIGHT = 1.0, 1.4, 2.1969  # OpenCV's 5 x 5 chamfer


def spatter(x: Float[Tensor, "n 3 s s"], c: tuple[float, ...], generator: Generator) -> Float[Tensor, "n 3 s s"]:
    """Mean, spread and smoothing of the liquid, its threshold, its strength, and 0 for water or 1 for mud."""
    mean, spread, smooth, threshold, strength, mud = c
    count, size = len(x), x.shape[-1]
    liquid = mean + spread * torch.randn(count, 1, size, size, generator=generator)
    liquid = apply(gaussian_matrix(size, smooth), liquid)
    liquid = torch.where(liquid < threshold, 0.0, liquid)
    if mud:
        mask = apply(gaussian_matrix(size, strength), (liquid > threshold).float())
        mask = torch.where(mask < 0.8, 0.0, mask).to(x.device)
        colour = torch.tensor([63.0, 42.0, 20.0], device=x.device)[:, None, None] / 255
        return x * (1 - mask) + colour * mask
    mask = _water((liquid * 255).clamp(0, 255).floor()) * strength
    # the published code calls its turquoise (175, 238, 238) in the order of the image's channels
    colour = torch.tensor([175.0, 238.0, 238.0], device=x.device)[:, None, None] / 255
    return x + mask.to(x.device) * colour


def _water(liquid: Float[Tensor, "n 1 s s"]) -> Float[Tensor, "n 1 s s"]:
    """Where drops glisten, 0 .. 1: the distance from their edges, equalised, embossed, times their depth."""
    distance = _distance(_canny(liquid)).clamp(max=_FAR)
    distance = _equalize(_blur(distance).floor())
    kernel = torch.tensor([[-2.0, -1.0, 0.0], [-1.0, 1.0, 1.0], [0.0, 1.0, 2.0]])[None, None]
    embossed = F.conv2d(F.pad(distance, (1, 1, 1, 1), mode="reflect"), kernel).clamp(0, 255).round()
    light = liquid * _blur(embossed)
    return light / light.amax((1, 2, 3), keepdim=True).clamp(min=1e-12)


def _blur(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1)


def _canny(x: Float[Tensor, "n 1 s s"]) -> Bool[Tensor, "n 1 s s"]:
    """Edges: Sobel's gradient by its L1 norm, thin along its direction, strong ones and weak ones that touch them."""
    sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    gradient = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), torch.stack([sobel, sobel.T])[:, None])
    dx, dy = gradient[:, :1], gradient[:, 1:]
    size = dx.abs() + dy.abs()
    padded = F.pad(size, (1, 1, 1, 1))

    def shifted(down: int, right: int) -> Tensor:
        return padded[:, :, 1 + down : padded.shape[2] - 1 + down, 1 + right : padded.shape[3] - 1 + right]

    flat, steep = dy.abs() < 0.4142 * dx.abs(), dy.abs() > 2.4142 * dx.abs()
    same = dx * dy >= 0
    before = torch.where(
        flat, shifted(0, -1), torch.where(steep, shifted(-1, 0), torch.where(same, shifted(-1, -1), shifted(-1, 1)))
    )
    after = torch.where(
        flat, shifted(0, 1), torch.where(steep, shifted(1, 0), torch.where(same, shifted(1, 1), shifted(1, -1)))
    )
    # OpenCV: greater than the one before, and than the one after or (along an axis) equal to it
    axis = flat | steep
    thin = (size > before) & ((size > after) | (axis & (size == after)))
    weak, edges = thin & (size > _LOW), thin & (size > _HIGH)
    while True:
        grown = weak & (F.max_pool2d(edges.float(), 3, 1, 1) > 0)
        if bool((grown == edges).all()):
            return edges
        edges = grown | edges


def _distance(edges: Bool[Tensor, "n 1 s s"]) -> Float[Tensor, "n 1 s s"]:
    """Distance to the nearest edge by OpenCV's chamfer, as far as _FAR + 1."""
    distance = torch.where(edges, 0.0, float(_FAR + 1))
    costs = {1: _STRAIGHT, 2: _SLANT, 5: _KNIGHT}  # by the square of the length
    moves = [(y, x, costs[y * y + x * x]) for y in range(-2, 3) for x in range(-2, 3) if y * y + x * x in costs]
    height, width = distance.shape[2:]
    for _ in range(_FAR):
        padded = F.pad(distance, (2, 2, 2, 2), value=float(_FAR + 1))
        near = [padded[:, :, 2 + y : 2 + y + height, 2 + x : 2 + x + width] + cost for y, x, cost in moves]
        closer = torch.minimum(distance, torch.stack(near).amin(0))
        if bool((closer == distance).all()):
            break
        distance = closer
    return distance


def _equalize(x: Float[Tensor, "n 1 s s"]) -> Float[Tensor, "n 1 s s"]:
    """OpenCV's equalizeHist of whole numbers 0 .. 255."""
    count, pixels = len(x), x.shape[2] * x.shape[3]
    values = x.long().flatten(1)
    histogram = torch.zeros(count, 256).scatter_add_(1, values, torch.ones(count, pixels))
    first = torch.where(histogram > 0, torch.arange(256), 256).amin(1, keepdim=True)
    lowest = histogram.gather(1, first)
    scale = 255 / (pixels - lowest).clamp(min=1)
    table = ((histogram.cumsum(1) - lowest) * scale).round().clamp(0, 255)
    table = torch.where(lowest == pixels, first.float(), table)
    return table.gather(1, values).view_as(x)
