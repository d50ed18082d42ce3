"""Geometry on whole batches of images: where each output pixel is taken from, with one parameter per image.

Each gives what torchvision.transforms.v2.functional gives for the same parameter. Images are (batch, channels, height,
width), uint8 or float in 0 .. 255, on any device; there is no loop over images.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale.shapes import Bool, Float, Int, UInt8

Images = UInt8[Tensor, "batch channels height width"] | Float[Tensor, "batch channels height width"]
PerImage = Float[Tensor, " batch"]
Matrix = Float[Tensor, "batch 2 3"]


GRAY = 128  # what the authors of AutoAugment fill empty pixels with


def affine(images: Images, matrix: Matrix, fill: int = GRAY) -> Images:
    """Each output pixel (x, y), counted from the centre, is taken from `matrix` @ (x, y, 1); nearest neighbour."""
    channels, height, width = images.shape[1:]
    half = (width / 2, height / 2)
    x = torch.arange(width, device=images.device) + 0.5 - half[0]
    y = torch.arange(height, device=images.device) + 0.5 - half[1]
    grid_x = matrix[:, 0, 0, None, None] * x + matrix[:, 0, 1, None, None] * y[:, None] + matrix[:, 0, 2, None, None]
    grid_y = matrix[:, 1, 0, None, None] * x + matrix[:, 1, 1, None, None] * y[:, None] + matrix[:, 1, 2, None, None]
    # nearest neighbour by index: half to even, as grid_sample rounds
    column = torch.round(grid_x + half[0] - 0.5).long()
    row = torch.round(grid_y + half[1] - 0.5).long()
    outside = (column < 0) | (column >= width) | (row < 0) | (row >= height)
    source = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    taken = images.flatten(2).gather(2, source.flatten(1)[:, None].expand(-1, channels, -1)).view_as(images)
    return taken.masked_fill(outside[:, None], fill)


def _matrix(batch: int, device: torch.device) -> Matrix:
    return torch.eye(2, 3, device=device).repeat(batch, 1, 1)


def rotation(degrees: PerImage) -> Matrix:
    """Where `rotate` takes its pixels from."""
    matrix = _matrix(len(degrees), degrees.device)
    angle = torch.deg2rad(degrees)
    matrix[:, 0, 0] = matrix[:, 1, 1] = torch.cos(angle)
    matrix[:, 0, 1], matrix[:, 1, 0] = -torch.sin(angle), torch.sin(angle)
    return matrix


def translation(right: PerImage, down: PerImage) -> Matrix:
    """Where `translate` takes its pixels from."""
    matrix = _matrix(len(right), right.device)
    matrix[:, 0, 2], matrix[:, 1, 2] = -right, -down
    return matrix


def shear(level: PerImage, side: int, axis: int) -> Matrix:
    """Where `shear_x` (axis 0) and `shear_y` (axis 1) take their pixels from; `side` is that of the other axis."""
    matrix = _matrix(len(level), level.device)
    matrix[:, axis, 1 - axis], matrix[:, axis, 2] = level, level * (side / 2)
    return matrix


def squared(matrix: Matrix) -> Float[Tensor, "batch 3 3"]:
    """The same as matrices of 3 x 3, which can be multiplied."""
    last = torch.tensor([0.0, 0.0, 1.0], device=matrix.device).expand(len(matrix), 1, 3)
    return torch.cat([matrix, last], 1)


def rotate(images: Images, degrees: PerImage, fill: int = GRAY) -> Images:
    """Turn about the centre, counter-clockwise."""
    return affine(images, rotation(degrees), fill)


def translate(images: Images, right: PerImage, down: PerImage, fill: int = GRAY) -> Images:
    """Move by whole or broken pixels."""
    return affine(images, translation(right, down), fill)


def shear_x(images: Images, level: PerImage, fill: int = GRAY) -> Images:
    """x' = x - level * y, counted from the upper left corner, as AutoAugment does."""
    return affine(images, shear(level, images.shape[-2], 0), fill)


def shear_y(images: Images, level: PerImage, fill: int = GRAY) -> Images:
    """y' = y - level * x, counted from the upper left corner."""
    return affine(images, shear(level, images.shape[-1], 1), fill)


def cutout(images: Images, x: PerImage, y: PerImage, half: Tensor, fill: int = GRAY) -> Images:
    """Fill the square of side 2 * half centred at (x, y), each in [0, 1) of the image; it may reach over the edge."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    centre_y, centre_x = (y * height).floor()[:, None], (x * width).floor()[:, None]
    half = half.view(-1, 1)
    in_row: Bool[Tensor, "batch height"] = (rows >= centre_y - half) & (rows < centre_y + half)
    in_column: Bool[Tensor, "batch width"] = (columns >= centre_x - half) & (columns < centre_x + half)
    return images.masked_fill((in_row[:, :, None] & in_column[:, None, :])[:, None], fill)


def flip(images: Images, mirrored: Bool[Tensor, " batch"]) -> Images:
    """Mirror the chosen images left to right."""
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)


def pad_and_crop(images: Images, x: PerImage, y: PerImage, padding: int) -> Images:
    """Pad by reflection, then cut the old size out at (x, y), each in [0, 1)."""
    batch, channels, height, width = images.shape
    padded = F.pad(images.float(), [padding] * 4, mode="reflect").to(images.dtype)
    top = (y * (2 * padding + 1)).long().view(-1, 1, 1)
    left = (x * (2 * padding + 1)).long().view(-1, 1, 1)
    rows = torch.arange(height, device=images.device).view(1, -1, 1) + top
    columns = torch.arange(width, device=images.device).view(1, 1, -1) + left
    source = (rows * (width + 2 * padding) + columns).view(batch, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, source).view_as(images)


# --- random resized crop ----------------------------------------------------------------------------------------

CROP_TRIES = 10
CROP_DRAWS = 2 * CROP_TRIES + 2


def crop_boxes(
    draws: Float[Tensor, "batch draws"],
    height: Int[Tensor, " batch"] | int,
    width: Int[Tensor, " batch"] | int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Float[Tensor, "batch 4"]:
    """Boxes (top, left, height, width) in pixels, distributed as torchvision's RandomResizedCrop: the first of 10
    draws of area and log-uniform aspect ratio that fits, else the centre. `draws` are CROP_DRAWS uniform numbers."""
    tall = torch.as_tensor(height, dtype=torch.float32, device=draws.device).expand(len(draws))[:, None]
    wide = torch.as_tensor(width, dtype=torch.float32, device=draws.device).expand(len(draws))[:, None]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    area = tall * wide * (scale[0] + (scale[1] - scale[0]) * draws[:, :CROP_TRIES])
    aspect = torch.exp(low + (high - low) * draws[:, CROP_TRIES : 2 * CROP_TRIES])
    widths, heights = torch.sqrt(area * aspect).round_(), torch.sqrt(area / aspect).round_()
    fits = (widths > 0) & (widths <= wide) & (heights > 0) & (heights <= tall)
    first = fits.to(torch.int8).argmax(1, keepdim=True)
    w, h = widths.gather(1, first), heights.gather(1, first)
    none = ~fits.any(1, keepdim=True)
    shape = wide / tall
    w = torch.where(none, torch.where(shape > ratio[1], (tall * ratio[1]).round(), wide), w)
    h = torch.where(none, torch.where(shape < ratio[0], (wide / ratio[0]).round(), tall), h)
    x = torch.where(none, 0.5, draws[:, -2:-1])
    y = torch.where(none, 0.5, draws[:, -1:])
    return torch.cat([(y * (tall - h + 1)).floor(), (x * (wide - w + 1)).floor(), h, w], 1)


def resized_crop(
    images: Images,
    boxes: Float[Tensor, "batch 4"],
    size: int,
    mirrored: Bool[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch channels size size"]:
    """Cut each image's own box (top, left, height, width) out and scale it to size x size: antialiased bilinear.

    With `mirrored` the chosen results are flipped left to right, at no further cost. Two products of matrices a batch:
    rows of weights that depend on the image alone.
    """
    batch, channels, height, width = images.shape
    across = _resampling(boxes[:, 1], boxes[:, 3], width, size)
    if mirrored is not None:
        across = torch.where(mirrored.view(-1, 1, 1), across.flip(1), across)
    down = _resampling(boxes[:, 0], boxes[:, 2], height, size)
    # images that are cut from interleaved memory come permuted: their planes are made here
    pixels = images.to(torch.float32).reshape(batch, channels * height, width)
    # the results are written transposed, so that each product reads its input along memory
    half = torch.bmm(across, pixels.transpose(1, 2)).view(batch, size, channels, height).transpose(1, 2)
    full = torch.bmm(down, half.reshape(batch, channels * size, height).transpose(1, 2))
    return full.view(batch, size, channels, size).transpose(1, 2)


def _resampling(start: PerImage, length: PerImage, source: int, size: int) -> Float[Tensor, "batch size source"]:
    """Weights of the source pixels in each output pixel: a triangle as wide as the output pixel, cut at the box."""
    scale = (length / size).view(-1, 1, 1)
    first, last = start.view(-1, 1, 1), (start + length).view(-1, 1, 1)
    centre = first + (torch.arange(size, device=start.device) + 0.5).view(1, -1, 1) * scale
    place = (torch.arange(source, device=start.device) + 0.5).view(1, 1, -1)
    weights = (centre - place).abs_().div_(-scale.clamp(min=1)).add_(1).clamp_(min=0)
    weights.mul_((place > first) & (place < last))
    return weights.div_(weights.sum(2, keepdim=True))


# --- erasing, tiles, turns --------------------------------------------------------------------------------------

ERASE_DRAWS = 2 * CROP_TRIES + 2


def erase_boxes(
    draws: Float[Tensor, "batch draws"],
    height: int,
    width: int,
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
) -> Float[Tensor, "batch 4"]:
    """Boxes (top, left, height, width) of random erasing (Zhong et al. 2020, arXiv:1708.04896), as torchvision draws
    them: the first of 10 draws that is smaller than the image, else an empty box. `draws` are ERASE_DRAWS numbers."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[:, :CROP_TRIES])
    aspect = torch.exp(low + (high - low) * draws[:, CROP_TRIES : 2 * CROP_TRIES])
    heights, widths = torch.sqrt(area * aspect).round_(), torch.sqrt(area / aspect).round_()
    fits = (heights < height) & (widths < width)
    first = fits.to(torch.int8).argmax(1, keepdim=True)
    found = fits.any(1, keepdim=True)
    h, w = heights.gather(1, first) * found, widths.gather(1, first) * found
    top = (draws[:, -1:] * (height - h + 1)).floor()
    left = (draws[:, -2:-1] * (width - w + 1)).floor()
    return torch.cat([top, left, h, w], 1)


def erase(images: Images, boxes: Float[Tensor, "batch 4"], value: float = 0.0) -> Images:
    """Fill each image's box (top, left, height, width) with one value."""
    inside = box_mask(boxes, images.shape[-2], images.shape[-1])
    return images.masked_fill(inside[:, None], value)


def box_mask(boxes: Float[Tensor, "batch 4"], height: int, width: int) -> Bool[Tensor, "batch height width"]:
    """Where the boxes lie."""
    top, left, h, w = (column[:, None] for column in boxes.unbind(1))
    rows = torch.arange(height, device=boxes.device)
    columns = torch.arange(width, device=boxes.device)
    return ((rows >= top) & (rows < top + h))[:, :, None] & ((columns >= left) & (columns < left + w))[:, None, :]


def quarter_turns(images: Images, turns: Int[Tensor, " batch"]) -> Images:
    """Turn square images counter-clockwise by 0 to 3 quarters: the four classes of rotation prediction (RotNet)."""
    across = images.transpose(2, 3)
    every = torch.stack([images, across.flip(2), images.flip(2, 3), across.flip(3)], 1)
    return every[torch.arange(len(images), device=images.device), turns]


def tiles(
    images: Images,
    grid: int,
    size: int,
    x: Float[Tensor, "batch tiles"],
    y: Float[Tensor, "batch tiles"],
    *,
    cell: int | None = None,
    shift: Int[Tensor, "batch tiles 3 2"] | None = None,
    most: int = 0,
) -> Tensor:
    """Cut a grid x grid jigsaw: from each cell a piece of size x size at (x, y) of its free room, each in [0, 1).

    Returns (batch, grid * grid, 3, size, size), row by row (Noroozi and Favaro 2016, arXiv:1603.09246: from 255 pixels
    a 3 x 3 grid of cells of 85, pieces of 64, so that tiles cannot be joined by their edges). The cells fill the image,
    or are of `cell` pixels a side and stand in its middle. `shift` moves each channel of a piece by 0 to `most` pixels
    down and right, for which there is room in the cell.
    """
    batch, channels, height, width = images.shape
    tall, wide = (height // grid, width // grid) if cell is None else (cell, cell)
    first_row, first_column = (0, 0) if cell is None else ((height - grid * cell) // 2, (width - grid * cell) // 2)
    number = torch.arange(grid * grid, device=images.device)
    top = first_row + (number // grid) * tall + (y * (tall - size - most + 1)).long()
    left = first_column + (number % grid) * wide + (x * (wide - size - most + 1)).long()
    step = torch.arange(size, device=images.device)
    corner = (top * width + left)[:, None]  # (batch, 1, tiles)
    if shift is not None:
        corner = corner + (shift[..., 0] * width + shift[..., 1]).transpose(1, 2)  # of each channel
    source = corner[..., None, None] + (step[:, None] * width + step)
    cut = images.flatten(2).gather(2, source.flatten(2).expand(-1, channels, -1))
    return cut.view(batch, channels, grid * grid, size, size).transpose(1, 2)


def jigsaw(pieces: Tensor, permutation: Int[Tensor, "batch tiles"]) -> Tensor:
    """Put the tiles (batch, tiles, 3, size, size) into each image's own order."""
    return pieces.gather(1, permutation.view(*permutation.shape, 1, 1, 1).expand_as(pieces))
