"""The 15 + 4 common corruptions at 5 severities (Hendrycks & Dietterich 2019, arXiv:1903.12261) on batches of images.

Constants are those of the authors' make_cifar_c.py for images below 112 pixels, of their imagenet_c package above.
Random numbers come from a generator, so a corrupted test set is the same in every run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sslscale.evaluate import fields
from sslscale.evaluate.spatter import spatter
from sslscale.shapes import Float, UInt8

SMALL = 112

# corruption -> the parameters of severities 1 to 5, for small images and for large ones
_C: dict[str, tuple[Sequence[Any], Sequence[Any]]] = {
    "gaussian_noise": ((0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": ((500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": ((0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": (
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": (
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": (
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom_blur": (
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "snow": (
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": (
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    ),
    "fog": (
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": ((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": (  # displacement, smoothing and shift of the corners as shares of the side
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        # theirs count 244 pixels where an image has 224
        tuple(
            tuple(v * 244 / 224 for v in row)
            for row in ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
        ),
    ),
    "pixelate": ((0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": ((80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
    "speckle_noise": ((0.06, 0.1, 0.12, 0.16, 0.2), (0.15, 0.2, 0.35, 0.45, 0.6)),
    "gaussian_blur": ((0.4, 0.6, 0.7, 0.8, 1), (1, 2, 3, 4, 6)),
    "spatter": (
        (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
        (
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
    ),
    "saturate": (
        ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    ),
}
COMMON = tuple(_C)[:15]  # what mCE is the mean of; the last four are for validation
EXTRA = tuple(_C)[15:]

# AlexNet's error on ImageNet-C, mean over the severities, as the authors give it: what mCE is relative to
ALEXNET_ERRORS = dict(
    zip(
        COMMON,
        (
            *(0.886428, 0.894468, 0.922640, 0.819880, 0.826268, 0.785948, 0.798360, 0.866816),
            *(0.826572, 0.819324, 0.564592, 0.853204, 0.646056, 0.717840, 0.606500),
        ),
        strict=True,
    )
)


def corrupt(
    images: UInt8[Tensor, "n 3 size size"],
    name: str,
    severity: int,
    generator: Generator,
    *,
    frost: Sequence[UInt8[Tensor, "3 h w"]] = (),
) -> UInt8[Tensor, "n 3 size size"]:
    """One corruption of a batch, on its device. `generator` is a CPU generator.

    `frost` are photographs of frost (the authors' six); without them the texture is made of random clouds, and the
    figure for frost is not comparable with published ones.
    """
    small, large = _C[name]
    parameters = (small if images.shape[-1] < SMALL else large)[severity - 1]
    x = images.float() / 255
    x = _frost(x, parameters, generator, frost) if name == "frost" else _FUNCTIONS[name](x, parameters, generator)
    return (x.clamp(0, 1) * 255).to(torch.uint8)  # cut, not rounded, as np.uint8 does


def _normal(x: Tensor, generator: Generator, *, channels: bool = True) -> Tensor:
    shape = x.shape if channels else (len(x), 1, *x.shape[2:])
    return torch.randn(shape, generator=generator).to(x.device)


def _uniform(count: int, low: float, high: float, generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _shot(x: Tensor, c: float, generator: Generator) -> Tensor:
    return (torch.poisson((x * c).cpu(), generator=generator) / c).to(x.device)


def _impulse(x: Tensor, c: float, generator: Generator) -> Tensor:
    draw = torch.rand(x.shape, generator=generator).to(x.device)
    return torch.where(draw < c / 2, 0.0, torch.where(draw < c, 1.0, x))


def _gauss(x: Tensor, sigma: float) -> Tensor:
    return fields.apply(fields.gaussian_matrix(x.shape[-1], sigma).to(x.device), x)


def disk(radius: float, alias_blur: float) -> Float[Tensor, "k k"]:
    """A disk of pixels, smoothed at its edge by a small Gaussian."""
    reach, taps = (8, 3) if radius <= 8 else (int(radius), 5)
    axis = np.arange(-reach, reach + 1)
    kernel = torch.from_numpy((axis[:, None] ** 2 + axis[None] ** 2 <= radius**2).astype(np.float32))
    kernel /= kernel.sum()
    matrix = fields.gaussian_matrix(
        len(axis), alias_blur, mode="mirror", truncate=(taps // 2) / alias_blur if alias_blur else 0
    )
    return fields.apply(matrix, kernel)


def _defocus(x: Tensor, c: tuple[float, float], generator: Generator) -> Tensor:
    kernel = disk(*c).to(x.device)
    reach = len(kernel) // 2
    padded = F.pad(x, (reach, reach, reach, reach), mode="reflect")
    return F.conv2d(padded, kernel.expand(3, 1, -1, -1), groups=3)


def _glass(x: Tensor, c: tuple[float, int, int], generator: Generator) -> Tensor:
    sigma, reach, times = c
    x = (_gauss(x, sigma).clamp(0, 1) * 255).floor()
    for _ in range(times):
        x = fields.scatter_pixels(x, reach, generator)
    return _gauss(x / 255, sigma)


def _motion(x: Tensor, c: tuple[int, float], generator: Generator) -> Tensor:
    angles = _uniform(len(x), -45, 45, generator)
    return (fields.motion_blur(x * 255, c[0], c[1], angles)).round() / 255


def _zoom(x: Tensor, c: tuple[float, float], generator: Generator) -> Tensor:
    factors = np.arange(1, *c)
    total = x.clone()
    for factor in factors:
        total += fields.apply(fields.zoom_matrix(x.shape[-1], float(factor)).to(x.device), x)
    return total / (len(factors) + 1)


def _snow(x: Tensor, c: tuple[float, ...], generator: Generator) -> Tensor:
    mean, spread, zoom, threshold, radius, sigma, share = c
    layer = mean + spread * _normal(x, generator, channels=False)
    layer = fields.apply(fields.zoom_matrix(x.shape[-1], zoom).to(x.device), layer)
    layer = (torch.where(layer < threshold, 0.0, layer).clamp(0, 1) * 255).floor()
    angles = _uniform(len(x), -135, -45, generator)
    layer = fields.motion_blur(layer, int(radius), sigma, angles).round() / 255
    gray = (0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2])[:, None]
    x = share * x + (1 - share) * torch.maximum(x, 1.5 * gray + 0.5)
    return x + layer + layer.rot90(2, (2, 3))


def _frost(x: Tensor, c: tuple[float, float], generator: Generator, photographs: Sequence[Tensor]) -> Tensor:
    size = x.shape[-1]
    if not photographs:
        cloud = fields.plasma(len(x), size, 1.8, generator)
        ridges = (1 - (2 * cloud - 1).abs())[:, None] ** 2
        tint = torch.tensor([0.75, 0.85, 1.0])[:, None, None]
        return c[0] * x + c[1] * (ridges * tint).to(x.device)
    if size < SMALL:
        photographs = [F.interpolate(p[None].float(), scale_factor=0.2, mode="bilinear")[0] for p in photographs]
    layers = []
    for _ in range(len(x)):
        # the authors draw among the first five of their six
        photograph = photographs[int(torch.randint(min(5, len(photographs)), (), generator=generator))]
        top, left = (int(torch.randint(max(s - size, 1), (), generator=generator)) for s in photograph.shape[1:])
        layers.append(photograph[:, top : top + size, left : left + size].float() / 255)
    return c[0] * x + c[1] * torch.stack(layers).to(x.device)


def _fog(x: Tensor, c: tuple[float, float], generator: Generator) -> Tensor:
    most = x.amax((1, 2, 3), keepdim=True)
    x = x + c[0] * fields.plasma(len(x), x.shape[-1], c[1], generator)[:, None].to(x.device)
    return x * most / (most + c[0])


def _brightness(x: Tensor, c: float, generator: Generator) -> Tensor:
    hue, saturation, value = fields.rgb_to_hsv(x)
    return fields.hsv_to_rgb(hue, saturation, (value + c).clamp(0, 1))


def _saturate(x: Tensor, c: tuple[float, float], generator: Generator) -> Tensor:
    hue, saturation, value = fields.rgb_to_hsv(x)
    return fields.hsv_to_rgb(hue, (saturation * c[0] + c[1]).clamp(0, 1), value)


def _contrast(x: Tensor, c: float, generator: Generator) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * c + mean


def _elastic(x: Tensor, c: tuple[float, float, float], generator: Generator) -> Tensor:
    count, size = len(x), x.shape[-1]
    strength, smooth, corner = (v * size for v in c)
    middle, square = size // 2, size // 3
    points = np.array([[1, 1], [1, -1], [-1, -1]]) * square + middle
    shift = _uniform(count * 6, -corner, corner, generator).view(count, 3, 2).numpy()
    back = fields.affine_of_points(points + shift, np.broadcast_to(points, shift.shape).astype(float))
    maps = torch.from_numpy(back).float().to(x.device)
    y, across = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    places = torch.stack([across, y, torch.ones_like(y)]).float().flatten(1).to(x.device)
    source = (maps @ places).view(count, 2, size, size)
    x = fields.sample(x, source[:, 1], source[:, 0], "mirror")
    matrix = fields.gaussian_matrix(size, smooth, mode="edge", truncate=3)
    moves = fields.apply(matrix, 2 * torch.rand(2, count, size, size, generator=generator) - 1) * strength
    moves = moves.to(x.device)
    return fields.sample(x, y.to(x.device) + moves[1], across.to(x.device) + moves[0], "edge")


def _pixelate(x: Tensor, c: float, generator: Generator) -> Tensor:
    size = x.shape[-1]
    down = fields.box_matrix(size, int(size * c)).to(x.device)
    up = fields.box_matrix(int(size * c), size).to(x.device)
    x = x * 255
    for matrix in (down, up):  # PIL rounds after each axis
        x = (matrix @ (x @ matrix.T).add(0.5).floor()).add(0.5).floor()
    return x / 255


def _jpeg(x: Tensor, c: int, generator: Generator) -> Tensor:
    from torchvision.io import decode_jpeg, encode_jpeg

    whole = (x * 255).round().to(torch.uint8).cpu()
    decoded: list[Tensor] = [decode_jpeg(encode_jpeg(image, c)) for image in whole]  # pyright: ignore[reportAssignmentType]
    return torch.stack(decoded).to(x.device).float() / 255


_FUNCTIONS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "gaussian_noise": lambda x, c, g: x + c * _normal(x, g),
    "shot_noise": _shot,
    "impulse_noise": _impulse,
    "defocus_blur": _defocus,
    "glass_blur": _glass,
    "motion_blur": _motion,
    "zoom_blur": _zoom,
    "snow": _snow,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg,
    "speckle_noise": lambda x, c, g: x + x * c * _normal(x, g),
    "gaussian_blur": lambda x, c, g: _gauss(x, c),
    "spatter": lambda x, c, g: spatter(x, c, g),
    "saturate": _saturate,
}


def mean_corruption_error(errors: Mapping[str, Sequence[float]], baseline: Mapping[str, float]) -> float:
    """mCE (section 4.2): the mean over corruptions of sum_s E_s / sum_s E_s of the baseline, over what both have.

    `errors` are by severity, `baseline` the mean over the severities.
    """
    shared = [name for name in COMMON if name in errors and name in baseline]
    if not shared:
        return math.nan
    return float(np.mean([np.mean(errors[name]) / baseline[name] for name in shared]))
