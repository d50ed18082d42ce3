"""The operations of nearly every view on a CPU, one image at a time in the processor's nearest cache, without the GIL.

The same results as `geometry` and `ops` give on whole batches (a test compares them), several times as fast: a chain
over an image of 32 x 32 stays in 12 KB, where operations on batches go through memory for each step. Compiled by numba
at the first call and kept on disk.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from torch import Tensor

from sslscale.shapes import Float, UInt

if TYPE_CHECKING:
    from sslscale.data.plan import Plan


# nogil: threads run beside each other; fast math may reorder sums, no more: no NaN and no infinity ever comes here
_MATH = {"nnan", "ninf", "nsz", "arcp", "contract", "reassoc"}
_compiled = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=_MATH)


def views(
    images: UInt[Tensor, "batch channels height width"],
    plan: Plan,
    size: int,
    kernel_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    cropped: bool,
) -> Float[Tensor, "batch channels size size"]:
    """Crop, flip, jitter, grayscale, blur, solarize and normalise on the CPU, channels-last."""
    out = torch.empty(len(images), images.shape[1], size, size, memory_format=torch.channels_last)
    _views(
        images.contiguous().numpy(),
        np.float32(1 if images.dtype == torch.uint8 else 1 / 257),  # 0 .. 65535 as 0 .. 255
        _array(None if cropped else plan.boxes, np.float32, 2),
        _array(plan.mirrored, np.bool_, 1),
        _array(plan.colors, np.float32, 3),
        _array(plan.hue, np.float32, 1),
        _array(plan.hue_place, np.int64, 1),
        _array(plan.gray, np.bool_, 1),
        _array(plan.sigma, np.float32, 1),
        kernel_size,
        _array(plan.solarized, np.bool_, 1),
        np.array([1 / (255 * s) for s in std], np.float32),
        np.array([-m / s for m, s in zip(mean, std, strict=True)], np.float32),
        out.permute(0, 2, 3, 1).numpy(),
    )
    return out


def _array(column: Tensor | None, dtype: Any, dims: int) -> np.ndarray:
    """The column as numpy knows it; an empty one for None, so that the types that are compiled for stay the same."""
    return np.zeros((0,) * dims, dtype) if column is None else np.ascontiguousarray(column.numpy(), dtype)


@_compiled
def _views(
    images, unit, boxes, mirrored, colors, hue, hue_place, gray, sigma, kernel_size, solarized, scale, shift, out
):
    batch, channels, _, width = images.shape
    size = out.shape[1]
    pixels = size * size
    row = np.empty(max(width, size + kernel_size) + 1, np.float32)
    view = np.empty((channels, size, size), np.float32)
    spare = np.empty((size, size), np.float32)
    flat = view.reshape(channels, pixels)
    for i in range(batch):
        flip = len(mirrored) > 0 and mirrored[i]
        if len(boxes) > 0:
            _resize(images[i], boxes[i], row, view)
        else:
            _copy(images[i], view)
        if unit != np.float32(1):
            for c in range(channels):
                for p in range(pixels):
                    flat[c, p] *= unit
        if len(colors) > 0:
            for place in range(4):
                a, b, c = colors[i, place]
                if a != np.float32(1) or b != np.float32(0) or c != np.float32(0):
                    _blend(flat, a, b, c, spare.reshape(pixels))
                if channels == 3 and hue_place[i] == place:
                    _turn(flat, hue[i])
        if len(gray) > 0 and gray[i]:
            luma = spare.reshape(pixels)
            _luma(flat, luma)
            for c in range(channels):
                for p in range(pixels):
                    flat[c, p] = luma[p]
        if len(sigma) > 0 and sigma[i] > 0:
            _blur(view, sigma[i], kernel_size, row, spare)
        if len(solarized) > 0 and solarized[i]:
            for c in range(channels):
                for p in range(pixels):
                    value = flat[c, p]
                    flat[c, p] = np.float32(255) - value if value >= np.float32(128) else value
        _write(view, flip, scale, shift, out[i])


@_compiled
def _copy(image, view):
    for c in range(view.shape[0]):
        for y in range(view.shape[1]):
            source, target = image[c, y], view[c, y]
            for x in range(view.shape[2]):
                target[x] = np.float32(source[x])


@_compiled
def _write(view, flip, scale, shift, out):
    """Normalise, and put the channels of a pixel side by side."""
    size = out.shape[0]
    if out.shape[2] != 3:
        for c in range(out.shape[2]):
            for y in range(size):
                plane, target = view[c, y], out[y]
                for x in range(size):
                    target[size - 1 - x if flip else x, c] = plane[x] * scale[c] + shift[c]
        return
    for y in range(size):
        red, green, blue = view[0, y], view[1, y], view[2, y]
        target = out[y]
        if flip:
            for x in range(size):
                target[size - 1 - x, 0] = red[x] * scale[0] + shift[0]
                target[size - 1 - x, 1] = green[x] * scale[1] + shift[1]
                target[size - 1 - x, 2] = blue[x] * scale[2] + shift[2]
        else:
            for x in range(size):
                target[x, 0] = red[x] * scale[0] + shift[0]
                target[x, 1] = green[x] * scale[1] + shift[1]
                target[x, 2] = blue[x] * scale[2] + shift[2]


@_compiled
def _blur(view, sigma, kernel_size, row, spare):
    """Gaussian blur: see ops.gaussian_blur. Taps below a 10,000th of the middle one change nothing and are left out."""
    size = view.shape[1]
    reach = min(kernel_size // 2, math.ceil(4.3 * sigma))
    weights = np.empty(2 * reach + 1, np.float32)
    total = np.float32(0)
    for k in range(2 * reach + 1):
        weights[k] = np.float32(math.exp(-0.5 * ((k - reach) / sigma) ** 2))
        total += weights[k]
    for k in range(2 * reach + 1):
        weights[k] /= total
    for c in range(view.shape[0]):
        plane = view[c]
        for y in range(size):
            source, target = plane[y], spare[y]
            for x in range(size):
                row[reach + x] = source[x]
            for x in range(reach):
                row[reach - 1 - x] = source[x + 1]
                row[reach + size + x] = source[size - 2 - x]
            for x in range(size):
                target[x] = row[x] * weights[0]
            for k in range(1, 2 * reach + 1):
                weight = weights[k]
                for x in range(size):
                    target[x] += row[x + k] * weight
        for y in range(size):
            target = plane[y]
            for k in range(2 * reach + 1):
                position = abs(y + k - reach)
                source = spare[2 * (size - 1) - position if position >= size else position]
                weight = weights[k]
                if k == 0:
                    for x in range(size):
                        target[x] = source[x] * weight
                else:
                    for x in range(size):
                        target[x] += source[x] * weight


@_compiled
def _taps(start, length, size):
    """First source pixel, number of pixels and weights of each output pixel: see geometry.resized_crop."""
    scale = length / size
    support = max(scale, np.float32(1))
    most = math.ceil(2 * support) + 1
    first = np.empty(size, np.int64)
    count = np.empty(size, np.int64)
    weights = np.empty((size, most), np.float32)
    for i in range(size):
        centre = start + (np.float32(i) + np.float32(0.5)) * scale
        low = max(math.floor(centre - support + np.float32(0.5)), int(start))
        high = min(math.floor(centre + support + np.float32(0.5)), int(start + length))
        if high <= low:
            high = low + 1
        first[i] = low
        count[i] = min(high - low, most)
        total = np.float32(0)
        for k in range(count[i]):
            weight = max(np.float32(1) - abs(np.float32(low + k) + np.float32(0.5) - centre) / support, np.float32(0))
            weights[i, k] = weight
            total += weight
        for k in range(count[i]):
            weights[i, k] /= total
    return first, count, weights


@_compiled
def _resize(image, box, row, out):
    size = out.shape[1]
    left, wide = int(box[1]), int(box[3])
    y_first, y_count, y_weights = _taps(box[0], box[2], size)
    x_first, x_count, x_weights = _taps(box[1], box[3], size)
    enlarges = x_count.max() <= 2
    one, two = x_weights[:, 0].copy(), np.zeros(size, np.float32)
    for x in range(size):
        if x_count[x] > 1:
            two[x] = x_weights[x, 1]
    for c in range(out.shape[0]):
        for y in range(size):
            source = image[c, y_first[y]]
            weight = y_weights[y, 0]
            for x in range(left, left + wide):
                row[x] = np.float32(source[x]) * weight
            for k in range(1, y_count[y]):
                source = image[c, y_first[y] + k]
                weight = y_weights[y, k]
                for x in range(left, left + wide):
                    row[x] += np.float32(source[x]) * weight
            target = out[c, y]
            if enlarges:  # two taps at most: no inner loop
                row[left + wide] = np.float32(0)
                for x in range(size):
                    first = x_first[x]
                    target[x] = row[first] * one[x] + row[first + 1] * two[x]
            else:
                for x in range(size):
                    first = x_first[x]
                    value = row[first] * x_weights[x, 0]
                    for k in range(1, x_count[x]):
                        value += row[first + k] * x_weights[x, k]
                    target[x] = value


@_compiled
def _luma(image, luma):
    """See ops: of three channels ITU-R 601's, of others their mean."""
    if image.shape[0] == 3:
        red, green, blue = image[0], image[1], image[2]
        for p in range(image.shape[1]):
            luma[p] = red[p] * np.float32(0.2989) + green[p] * np.float32(0.587) + blue[p] * np.float32(0.114)
        return
    share = np.float32(1) / np.float32(image.shape[0])
    for p in range(image.shape[1]):
        luma[p] = image[0, p] * share
    for c in range(1, image.shape[0]):
        for p in range(image.shape[1]):
            luma[p] += image[c, p] * share


@_compiled
def _blend(image, a, b, c, luma):
    """clamp(a x + b luma(x) + c mean luma(x)): see ops.color_jitter."""
    pixels = image.shape[1]
    _luma(image, luma)
    total = np.float32(0)
    for p in range(pixels):
        total += luma[p]
        luma[p] *= b
    offset = c * total / np.float32(pixels)
    for channel in range(image.shape[0]):
        plane = image[channel]
        for p in range(pixels):
            plane[p] = min(max(a * plane[p] + luma[p] + offset, np.float32(0)), np.float32(255))


@_compiled
def _turn(image, shift):
    """Turn the hue: see ops.hue."""
    red, green, blue = image[0], image[1], image[2]
    for p in range(image.shape[1]):
        r, g, b = red[p], green[p], blue[p]
        value = max(max(r, g), b)
        chroma = value - min(min(r, g), b)
        per_turn = np.float32(1) / max(np.float32(6) * chroma, np.float32(1e-6))
        if_red, if_green = (g - b) * per_turn, (b - r) * per_turn + np.float32(1 / 3)
        if_blue = (r - g) * per_turn + np.float32(2 / 3)
        angle = (if_red if r == value else (if_green if g == value else if_blue)) + shift
        d = angle - np.float32(0.5)
        d = abs(d - np.floor(d + np.float32(0.5)))
        red[p] = value - chroma * min(max(np.float32(2) - np.float32(6) * d, np.float32(0)), np.float32(1))
        d = angle - np.float32(5 / 6)
        d = abs(d - np.floor(d + np.float32(0.5)))
        green[p] = value - chroma * min(max(np.float32(2) - np.float32(6) * d, np.float32(0)), np.float32(1))
        d = angle - np.float32(1 / 6)
        d = abs(d - np.floor(d + np.float32(0.5)))
        blue[p] = value - chroma * min(max(np.float32(2) - np.float32(6) * d, np.float32(0)), np.float32(1))
