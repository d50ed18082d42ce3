"""What corruptions are made of: linear filters as matrices, random clouds, motion, small shuffles. All on batches."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Generator, Tensor

from sslscale.shapes import Float, Int


def apply(matrix: Float[Tensor, "out size"], images: Float[Tensor, "... size size"]) -> Float[Tensor, "... out out"]:
    """The same linear map along both axes of square images."""
    return matrix @ images @ matrix.T


def _reflected(index: np.ndarray, size: int, mode: str) -> np.ndarray:
    """Places outside an axis brought inside: its end repeated, or mirrored about its edge or its last pixel."""
    if mode == "nearest":
        return index.clip(0, size - 1)
    if mode == "edge":
        place = index % (2 * size)
        return np.where(place < size, place, 2 * size - 1 - place)
    place = index % (2 * size - 2)
    return np.where(place < size, place, 2 * size - 2 - place)


def gaussian_matrix(size: int, sigma: float, *, mode: str = "nearest", truncate: float = 4.0) -> Float[Tensor, "n n"]:
    """A Gaussian filter cut at `truncate` sigma, as scipy's gaussian_filter and scikit-image's gaussian have it."""
    radius = int(truncate * sigma + 0.5) if sigma > 0 else 0
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / max(sigma, 1e-12)) ** 2)
    weights /= weights.sum()
    matrix = np.zeros((size, size))
    rows = np.arange(size)
    for offset, weight in zip(offsets, weights, strict=True):
        np.add.at(matrix, (rows, _reflected(rows + offset, size, mode)), weight)
    return torch.from_numpy(matrix).float()


def zoom_matrix(size: int, factor: float) -> Float[Tensor, "n n"]:
    """The middle of an axis enlarged: linear interpolation between its ends, as scipy's zoom with order 1."""
    inner = math.ceil(size / factor)
    top = (size - inner) // 2
    outer = round(inner * factor)
    trim = (outer - size) // 2
    place = (np.arange(size) + trim) * ((inner - 1) / max(outer - 1, 1))
    low = np.floor(place).astype(int).clip(0, inner - 1)
    share = place - low
    matrix = np.zeros((size, size))
    matrix[np.arange(size), top + low] += 1 - share
    matrix[np.arange(size), top + np.minimum(low + 1, inner - 1)] += share
    return torch.from_numpy(matrix).float()


def box_matrix(size: int, out: int) -> Float[Tensor, "out n"]:
    """PIL's BOX resampling of an axis."""
    scale = size / out
    reach = max(scale, 1.0)
    matrix = np.zeros((out, size))
    for row in range(out):
        centre = (row + 0.5) * scale
        first, last = max(int(centre - reach / 2 + 0.5), 0), min(int(centre + reach / 2 + 0.5), size)
        places = np.arange(first, last)
        distance = (places - centre + 0.5) / reach
        matrix[row, places] = (distance > -0.5) & (distance <= 0.5)
    return torch.from_numpy(matrix / matrix.sum(1, keepdims=True)).float()


def plasma(count: int, size: int, decay: float, generator: Generator) -> Float[Tensor, "count size size"]:
    """Clouds in 0 .. 1 by the diamond-square algorithm; what the wibble of each level is divided by is `decay`."""
    side = 1 << (size - 1).bit_length()
    field = torch.zeros(count, side, side)
    step, wibble = side, 100.0

    def around(total: Tensor) -> Tensor:
        noise = torch.rand(total.shape, generator=generator, dtype=torch.float32)
        return total / 4 + wibble * wibble * (2 * noise - 1)

    while step >= 2:
        half = step // 2
        corners = field[:, ::step, ::step]
        total = corners + corners.roll(-1, 1)
        field[:, half::step, half::step] = around(total + total.roll(-1, 2))
        centres, corners = field[:, half::step, half::step], field[:, ::step, ::step]
        field[:, ::step, half::step] = around(centres + centres.roll(1, 1) + corners + corners.roll(-1, 2))
        field[:, half::step, ::step] = around(centres + centres.roll(1, 2) + corners + corners.roll(-1, 1))
        step, wibble = half, wibble / decay
    field -= field.amin((1, 2), keepdim=True)
    return (field / field.amax((1, 2), keepdim=True))[:, :size, :size]


def motion_blur(
    images: Float[Tensor, "n c h w"], radius: int, sigma: float, angles: Float[Tensor, " n"]
) -> Float[Tensor, "n c h w"]:
    """Each image along its own direction (degrees): half a Gaussian over 2 * radius + 1 pixels, as ImageMagick's."""
    width = 2 * radius + 1
    steps = torch.arange(width, dtype=torch.float64)
    kernel = torch.exp(-(steps**2) / (2 * sigma * sigma))
    kernel /= kernel.sum()
    turn = torch.deg2rad(angles.double())
    _, _, height, length = images.shape
    number = torch.arange(len(images), device=images.device)[:, None, None]
    rows, columns = torch.arange(height), torch.arange(length)
    result = torch.zeros_like(images).permute(0, 2, 3, 1)
    source = images.permute(0, 2, 3, 1)
    for step, weight in zip(steps.tolist(), kernel.tolist(), strict=True):
        down = torch.ceil(step * torch.sin(turn) - 0.5).long()
        right = torch.ceil(step * torch.cos(turn) - 0.5).long()
        row = (rows[None] + down[:, None]).clamp(0, height - 1).to(images.device)
        column = (columns[None] + right[:, None]).clamp(0, length - 1).to(images.device)
        result += weight * source[number, row[:, :, None], column[:, None, :]]
    return result.permute(0, 3, 1, 2)


def scatter_pixels(
    images: Float[Tensor, "n c size size"], reach: int, generator: Generator
) -> Float[Tensor, "n c size size"]:
    """From the last pixel to the first each takes the value of a random neighbour, up to `reach` away.

    The published code means to swap the two, but its assignment of views copies one way: so the data sets were made. A
    neighbour that had its turn already gives its new value; such chains are followed by doubling the pointers.
    """
    count, channels, size, _ = images.shape
    pixels = size * size
    inside = torch.arange(reach + 1, size - reach + 1).clamp(max=size - 1).unique()
    moves = torch.randint(-reach, reach, (2, count, len(inside), len(inside)), generator=generator)
    here = (inside[:, None] * size + inside[None]).expand(count, -1, -1)
    row = (inside[:, None] + moves[0]).clamp(0, size - 1)
    column = (inside[None] + moves[1]).clamp(0, size - 1)
    there = row * size + column
    active = torch.zeros(pixels, dtype=torch.bool)
    active[here[0].flatten()] = True
    # nodes 0 .. pixels - 1 are values before, the rest values after
    pointer = torch.arange(2 * pixels).repeat(count, 1)
    pointer[:, pixels:] -= pixels
    done = (there > here) & active[there]
    pointer.scatter_(1, pixels + here.flatten(1), (there + pixels * done).flatten(1))
    for _ in range(pixels.bit_length()):
        pointer = pointer.gather(1, pointer)
    source = pointer[:, pixels:].to(images.device)
    flat = images.flatten(2).gather(2, source[:, None].expand(-1, channels, -1))
    return flat.view_as(images)


def sample(
    images: Float[Tensor, "n c h w"], y: Float[Tensor, "n h w"], x: Float[Tensor, "n h w"], mode: str
) -> Float[Tensor, "n c h w"]:
    """Bilinear values at places in pixels, mirrored about the last pixel ("mirror") or about the edge ("edge")."""
    count, channels, height, width = images.shape

    def inside(place: Tensor, size: int) -> Int[Tensor, "n h w"]:
        period = 2 * size - 2 if mode == "mirror" else 2 * size
        place = place % period
        return torch.where(place < size, place, period - (mode == "edge") - place)

    top, left = y.floor(), x.floor()
    down, right = (y - top)[:, None], (x - left)[:, None]
    flat = images.flatten(2)

    def at(row: Tensor, column: Tensor) -> Tensor:
        place = (inside(row.long(), height) * width + inside(column.long(), width)).flatten(1)
        return flat.gather(2, place[:, None].expand(-1, channels, -1)).view(count, channels, *y.shape[1:])

    upper = at(top, left) * (1 - right) + at(top, left + 1) * right
    lower = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
    return upper * (1 - down) + lower * down


def affine_of_points(
    source: Float[np.ndarray, "n 3 2"], target: Float[np.ndarray, "n 3 2"]
) -> Float[np.ndarray, "n 2 3"]:
    """The affine maps that take three points (x, y) of each image to three others."""
    ones = np.ones((*target.shape[:2], 1))
    return np.linalg.solve(np.concatenate([source, ones], 2), target).transpose(0, 2, 1)


def rgb_to_hsv(x: Float[Tensor, "n 3 h w"]) -> tuple[Tensor, Tensor, Tensor]:
    """Hue (in turns), saturation and value of colours in 0 .. 1."""
    value, _ = x.max(1)
    spread = value - x.amin(1)
    safe = spread.clamp(min=1e-12)
    red, green, blue = x.unbind(1)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    return (hue / 6) % 1, torch.where(value > 0, spread / value.clamp(min=1e-12), 0.0), value


def hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Float[Tensor, "n 3 h w"]:
    """Back again: channel c is v - v s max(0, min(k, 4 - k, 1)) with k = (c + 6 h) mod 6, c 5, 3, 1."""
    channels = []
    for shift in (5, 3, 1):
        k = (shift + 6 * hue) % 6
        channels.append(value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, 1)
