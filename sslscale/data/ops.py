"""Colours and filters on whole batches of images, with one parameter per image and no loop over images.

Each gives what torchvision.transforms.v2.functional gives for the same parameter, so that published recipes keep
their meaning. All take and return (batch, channels, height, width) on any device: uint8, rounded as torchvision
rounds, or float in 0 .. 255, where a chain of operations rounds nothing. Those that count values (posterize, equalize)
are uint8. Gray is the luma of three channels, and the mean of any other number of them; the hue is that of three.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale.data.transfer import constant
from sslscale.shapes import Float, Int, UInt8

Images = UInt8[Tensor, "batch channels height width"] | Float[Tensor, "batch channels height width"]
PerImage = Float[Tensor, " batch"]


_RED, _GREEN, _BLUE = 0.2989, 0.587, 0.114  # ITU-R 601, as torchvision rounds it


def _column(x: Tensor) -> Tensor:
    return x.view(-1, 1, 1, 1)


def _like(x: Tensor, images: Images) -> Images:
    return x.clamp_(0, 255).to(images.dtype)


def _luma(images: Images) -> Float[Tensor, "batch 1 height width"]:
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True, dtype=torch.float32)
    red, green, blue = images.split(1, 1)
    return (red * _RED).add_(green, alpha=_GREEN).add_(blue, alpha=_BLUE)


def _gray(images: Images) -> Float[Tensor, "batch 1 height width"]:
    luma = _luma(images)
    return luma if images.is_floating_point() else luma.floor_()


def _blend(images: Images, other: Tensor, factor: PerImage) -> Images:
    factor = _column(factor)
    return _like(images * factor + other * (1.0 - factor), images)


def grayscale(images: Images) -> Images:
    """The luma in all channels."""
    return _luma(images).to(images.dtype).expand_as(images)


def brightness(images: Images, factor: PerImage) -> Images:
    """0 is black, 1 the image itself, more is brighter."""
    return _like(images * _column(factor), images)


def contrast(images: Images, factor: PerImage) -> Images:
    """0 is the mean gray of the image, 1 the image itself."""
    return _blend(images, _gray(images).mean((1, 2, 3), keepdim=True), factor)


def saturation(images: Images, factor: PerImage) -> Images:
    """0 is gray, 1 the image itself (`Color` in AutoAugment)."""
    return _blend(images, _gray(images), factor)


def sharpness(images: Images, factor: PerImage) -> Images:
    """0 is a smoothed image, 1 the image itself; the outermost pixels stay."""
    height, width = images.shape[-2:]
    if height <= 2 or width <= 2:
        return images
    kernel = torch.ones(3, 3, device=images.device)
    kernel[1, 1] = 5
    count = images.shape[1]
    weight = (kernel / 13).expand(count, 1, 3, 3)
    smooth = images.to(torch.float32, copy=True)
    inner = F.conv2d(smooth, weight, groups=count)
    smooth[:, :, 1:-1, 1:-1] = inner if images.is_floating_point() else inner.round_()
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
    brighter = _like(images + _column(addition), images)
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
    return _like((values - low.masked_fill(flat, 0)) / scale, images)


def equalize(images: Images) -> Images:
    """Flatten each channel's histogram, with PIL's integer arithmetic."""
    batch, channels, height, width = images.shape
    flat = images.reshape(batch * channels, -1).long()
    histogram = torch.zeros(batch * channels, 256, dtype=torch.int64, device=images.device)
    histogram.scatter_add_(1, flat, torch.ones_like(flat))
    last = histogram.gather(1, flat.amax(1, keepdim=True))
    step = torch.div(height * width - last, 255, rounding_mode="floor")
    before = histogram.cumsum(1) - histogram
    table = torch.div(before + torch.div(step, 2, rounding_mode="floor"), step.clamp(min=1), rounding_mode="floor")
    table = torch.where(step == 0, torch.arange(256, device=images.device), table.clamp(0, 255))
    return table.gather(1, flat).to(torch.uint8).view(images.shape)


def hue(images: Images, shift: PerImage) -> Images:
    """Turn the hue by `shift` of the circle (-0.5 to 0.5); value and saturation stay."""
    red, green, blue = images.float().split(1, 1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # the hue in turns; where the chroma is 0 it does not matter
    per_turn = (6 * chroma).clamp_(min=1e-6).reciprocal_()
    angle = torch.where(
        red == value,
        (green - blue).mul_(per_turn),
        torch.where(green == value, (blue - red).mul_(per_turn).add_(1 / 3), (red - green).mul_(per_turn).add_(2 / 3)),
    ).add_(_column(shift))
    # channel = value - chroma * clamp(2 - 6 d, 0, 1), with d the distance on the circle to the colour opposite it
    opposite = constant((0.5, 5 / 6, 1 / 6), images.device).view(1, 3, 1, 1)
    turns = angle - opposite
    distance = turns.sub_(turns.round()).abs_()
    result = distance.mul_(-6).add_(2).clamp_(0, 1).mul_(-chroma).add_(value)
    # torchvision goes over floats here, and comes back to integers in 256 equal steps
    return result.to(images.dtype) if images.is_floating_point() else result.mul_(255.999 / 255).to(torch.uint8)


def color_jitter(
    images: Float[Tensor, "batch channels height width"],
    colors: Float[Tensor, "batch passes 3"],
    turns: Sequence[tuple[Int[Tensor, " _"], Float[Tensor, " _"]]],
) -> Float[Tensor, "batch channels height width"]:
    """Brightness, contrast, saturation and hue in each image's own order; in place, on float images in 0 .. 255.

    The first three are one form, clamp(a x + b luma(x) + c mean luma(x)), so that one pass serves images which are at
    different operations: brightness (f, 0, 0), saturation (f, 1 - f, 0), contrast (f, 0, 1 - f), none (1, 0, 0).
    `colors` are a, b, c of each pass; `turns` are the rows whose hue the pass turns, and by how much.
    """
    for number, (rows, shift) in enumerate(turns):
        a, b, c = colors[:, number, :, None, None, None].unbind(1)
        luma = _luma(images)
        offset = luma.mean((2, 3), keepdim=True).mul_(c)
        images.mul_(a).add_(luma.mul_(b).add_(offset)).clamp_(0, 255)
        if len(rows):
            images[rows] = hue(images[rows], shift)
    return images


def gaussian_blur(images: Images, sigma: PerImage, kernel_size: int) -> Images:
    """Blur with a Gaussian of `sigma` pixels, cut to `kernel_size` (odd) pixels; the border is reflected."""
    height, width = images.shape[-2:]
    reach = kernel_size // 2
    place = torch.arange(-reach, reach + 1, device=images.device, dtype=torch.float32)
    kernel = torch.softmax(-0.5 * (place / sigma[:, None]) ** 2, 1).view(-1, kernel_size, 1, 1, 1)
    padded = F.pad(images.float(), [reach] * 4, mode="reflect")
    # sums of shifted images: 2 to 6 times faster on CPU than convolutions with a kernel of its own for each image
    across = padded[..., :width] * kernel[:, 0]
    for tap in range(1, kernel_size):
        across.addcmul_(padded[..., tap : tap + width], kernel[:, tap])
    down = across[:, :, :height] * kernel[:, 0]
    for tap in range(1, kernel_size):
        down.addcmul_(across[:, :, tap : tap + height], kernel[:, tap])
    return down if images.is_floating_point() else down.round_().to(images.dtype)
