"""Image operations on whole uint8 batches, with one parameter per image and no loop over images.

Each gives what torchvision.transforms.v2.functional gives for the same parameter, so that published recipes keep
their meaning. All take and return uint8 (batch, 3, height, width) on any device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8
    from torch import Tensor

    Images = UInt8[Tensor, "batch 3 height width"]
    PerImage = Float[Tensor, " batch"]

GRAY = 128  # what the authors of AutoAugment fill empty pixels with


def _column(x: Tensor) -> Tensor:
    return x.view(-1, 1, 1, 1)


def _to_uint8(x: Tensor) -> Tensor:
    return x.clamp_(0, 255).to(torch.uint8)


def _grayscale(images: Images) -> Float[Tensor, "batch 1 height width"]:
    red, green, blue = images.unbind(1)
    return (red * 0.2989 + green * 0.587 + blue * 0.114).floor_().unsqueeze(1)


def _blend(images: Images, other: Tensor, factor: PerImage) -> Images:
    factor = _column(factor)
    return _to_uint8(images * factor + other * (1.0 - factor))


def brightness(images: Images, factor: PerImage) -> Images:
    """0 is black, 1 the image itself, more is brighter."""
    return _to_uint8(images * _column(factor))


def contrast(images: Images, factor: PerImage) -> Images:
    """0 is the mean gray of the image, 1 the image itself."""
    return _blend(images, _grayscale(images).mean((1, 2, 3), keepdim=True), factor)


def saturation(images: Images, factor: PerImage) -> Images:
    """0 is gray, 1 the image itself (`Color` in AutoAugment)."""
    return _blend(images, _grayscale(images), factor)


def sharpness(images: Images, factor: PerImage) -> Images:
    """0 is a smoothed image, 1 the image itself; the outermost pixels stay."""
    height, width = images.shape[-2:]
    if height <= 2 or width <= 2:
        return images
    kernel = torch.ones(3, 3, device=images.device)
    kernel[1, 1] = 5
    weight = (kernel / 13).expand(3, 1, 3, 3)
    smooth = images.float()
    smooth[:, :, 1:-1, 1:-1] = F.conv2d(smooth, weight, groups=3).round_()
    return _blend(images, smooth, factor)


def posterize(images: Images, bits: Int[Tensor, " batch"]) -> Images:
    """Keep the upper `bits` bits of each value; 8 or more keeps all."""
    dropped = (8 - bits).clamp(0, 8).to(torch.int32)
    mask = ((torch.full_like(dropped, 255) >> dropped) << dropped).to(torch.uint8)
    return images & _column(mask)


def solarize(images: Images, threshold: PerImage) -> Images:
    """Invert the values at or above `threshold` (0 to 256)."""
    return torch.where(images >= _column(threshold), 255 - images, images)


def solarize_add(images: Images, addition: PerImage) -> Images:
    """Add `addition` to the values below 128."""
    brighter = _to_uint8(images + _column(addition))
    return torch.where(images < 128, brighter, images)


def invert(images: Images) -> Images:
    """The negative."""
    return 255 - images


def autocontrast(images: Images) -> Images:
    """Stretch each channel to the range 0 to 255; a channel of one value stays."""
    values = images.float()
    low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
    flat = high == low
    scale = torch.where(flat, 1.0, (high - low) / 255)
    return _to_uint8((values - low.masked_fill(flat, 0)) / scale)


def equalize(images: Images) -> Images:
    """Flatten each channel's histogram, with PIL's integer arithmetic."""
    batch, channels, height, width = images.shape
    flat = images.view(batch * channels, -1).long()
    histogram = torch.zeros(batch * channels, 256, dtype=torch.int64, device=images.device)
    histogram.scatter_add_(1, flat, torch.ones_like(flat))
    last = histogram.gather(1, flat.amax(1, keepdim=True))
    step = torch.div(height * width - last, 255, rounding_mode="floor")
    before = histogram.cumsum(1) - histogram
    table = torch.div(before + torch.div(step, 2, rounding_mode="floor"), step.clamp(min=1), rounding_mode="floor")
    table = torch.where(step == 0, torch.arange(256, device=images.device), table.clamp(0, 255))
    return table.gather(1, flat).to(torch.uint8).view_as(images)


def affine(images: Images, matrix: Float[Tensor, "batch 2 3"], fill: int = GRAY) -> Images:
    """Each output pixel (x, y), counted from the centre, is taken from `matrix` @ (x, y, 1); nearest neighbour."""
    batch, _, height, width = images.shape
    half = torch.tensor([width / 2, height / 2], device=images.device)
    x = torch.arange(width, device=images.device) + 0.5 - half[0]
    y = torch.arange(height, device=images.device) + 0.5 - half[1]
    grid_x = matrix[:, 0, 0, None, None] * x + matrix[:, 0, 1, None, None] * y[:, None] + matrix[:, 0, 2, None, None]
    grid_y = matrix[:, 1, 0, None, None] * x + matrix[:, 1, 1, None, None] * y[:, None] + matrix[:, 1, 2, None, None]
    # nearest neighbour by index: half to even, as grid_sample rounds
    column = torch.round(grid_x + half[0] - 0.5).long()
    row = torch.round(grid_y + half[1] - 0.5).long()
    outside = (column < 0) | (column >= width) | (row < 0) | (row >= height)
    source = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    taken = images.flatten(2).gather(2, source.flatten(1)[:, None].expand(-1, 3, -1)).view(batch, 3, height, width)
    return taken.masked_fill(outside[:, None], fill)


def _matrix(batch: int, device: torch.device) -> Float[Tensor, "batch 2 3"]:
    return torch.eye(2, 3, device=device).repeat(batch, 1, 1)


def rotate(images: Images, degrees: PerImage, fill: int = GRAY) -> Images:
    """Turn about the centre, counter-clockwise."""
    matrix = _matrix(len(images), images.device)
    angle = torch.deg2rad(degrees)
    matrix[:, 0, 0] = matrix[:, 1, 1] = torch.cos(angle)
    matrix[:, 0, 1], matrix[:, 1, 0] = -torch.sin(angle), torch.sin(angle)
    return affine(images, matrix, fill)


def translate(images: Images, right: PerImage, down: PerImage, fill: int = GRAY) -> Images:
    """Move by whole or broken pixels."""
    matrix = _matrix(len(images), images.device)
    matrix[:, 0, 2], matrix[:, 1, 2] = -right, -down
    return affine(images, matrix, fill)


def shear_x(images: Images, level: PerImage, fill: int = GRAY) -> Images:
    """x' = x - level * y, counted from the upper left corner, as AutoAugment does."""
    matrix = _matrix(len(images), images.device)
    matrix[:, 0, 1], matrix[:, 0, 2] = level, level * (images.shape[-2] / 2)
    return affine(images, matrix, fill)


def shear_y(images: Images, level: PerImage, fill: int = GRAY) -> Images:
    """y' = y - level * x, counted from the upper left corner."""
    matrix = _matrix(len(images), images.device)
    matrix[:, 1, 0], matrix[:, 1, 2] = level, level * (images.shape[-1] / 2)
    return affine(images, matrix, fill)


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
    return torch.where(_column(mirrored), images.flip(-1), images)


def pad_and_crop(images: Images, x: PerImage, y: PerImage, padding: int) -> Images:
    """Pad by reflection, then cut the old size out at (x, y), each in [0, 1)."""
    batch, channels, height, width = images.shape
    padded = F.pad(images.float(), [padding] * 4, mode="reflect").to(torch.uint8)
    top = (y * (2 * padding + 1)).long().view(-1, 1, 1)
    left = (x * (2 * padding + 1)).long().view(-1, 1, 1)
    rows = torch.arange(height, device=images.device).view(1, -1, 1) + top
    columns = torch.arange(width, device=images.device).view(1, 1, -1) + left
    source = (rows * (width + 2 * padding) + columns).view(batch, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, source).view_as(images)
