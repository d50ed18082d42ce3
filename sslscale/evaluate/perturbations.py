"""Sequences of small changes, and how often predictions flip along them (Hendrycks & Dietterich 2019, section 4.3).

The ten of ImageNet-P, made as the authors' make_imagenet_p.py (from 112 pixels on) and make_cifar_p.py make them;
without the compression as video of the published files.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sslscale.evaluate import fields
from sslscale.evaluate.corruptions import SMALL
from sslscale.shapes import Float, Int, UInt8

NAMES = (
    *("gaussian_noise", "shot_noise", "motion_blur", "zoom_blur", "snow"),
    *("brightness", "translate", "rotate", "tilt", "scale"),
)
_FRAMES = 31


def sequence(
    images: UInt8[Tensor, "n 3 size size"], name: str, generator: Generator
) -> Iterator[UInt8[Tensor, "n 3 size size"]]:
    """The frames of one perturbation of a batch, one after another."""
    small = images.shape[-1] < SMALL
    for frame in _FUNCTIONS[name](images.float() / 255, small, generator):
        yield (frame.clamp(0, 1) * 255).to(torch.uint8)


def is_noise(name: str) -> bool:
    """Noise has no order: its frames are compared with the first one, not with the one before."""
    return name.endswith("noise")


class Flips:
    """Counts, over batches, how far predictions change from frame to frame."""

    def __init__(self, noise: bool):
        self._noise = noise
        self._flips = self._distance = 0.0
        self._count = 0

    def add(self, frames: Iterator[Float[Tensor, "n classes"]]) -> None:
        """Take up the logits of each frame of one batch."""
        before: Int[Tensor, "n 5"] | None = None
        for logits in frames:
            ranks = torch.argsort(logits, dim=1, descending=True, stable=True)
            if before is not None:
                self._flips += float((ranks[:, 0] != before[:, 0]).sum())
                self._distance += float(top5_distance(before, ranks).sum())
                self._count += len(ranks)
            if before is None or not self._noise:
                before = ranks[:, :5]

    @property
    def probability(self) -> float:
        """The flip probability: the share of frames whose prediction differs."""
        return self._flips / max(self._count, 1)

    @property
    def top5(self) -> float:
        """The mean top-5 distance (section 4.3: how far the five most probable classes move, at most rank 6)."""
        return self._distance / max(self._count, 1)


def top5_distance(before: Int[Tensor, "n 5"], ranks: Int[Tensor, "n classes"]) -> Int[Tensor, " n"]:
    """sum_i |min(i, 5) - min(rank after of the class that was at i, 5)| over the five first, ranks from 0."""
    after = ranks.argsort(1).gather(1, before)
    place = torch.arange(before.shape[1], device=before.device)
    return (place - after.clamp(max=5)).abs().sum(1)


def _noise(x: Tensor, small: bool, generator: Generator) -> Iterator[Tensor]:
    yield x
    for _ in range(_FRAMES - 1):
        yield x + (0.02 if small else 0.03) * torch.randn(x.shape, generator=generator).to(x.device)


def _shot(x: Tensor, small: bool, generator: Generator) -> Iterator[Tensor]:
    rate = 700 if small else 300
    yield x
    for _ in range(_FRAMES - 1):
        yield (torch.poisson((x * rate).cpu(), generator=generator) / rate).to(x.device)


def _motion(x: Tensor, small: bool, generator: Generator) -> Iterator[Tensor]:
    angles = [9 * (i - 20) for i in range(21)] if small else [4 * (i - 30) for i in range(_FRAMES)]
    for angle in angles:
        yield fields.motion_blur(x, 6 if small else 10, 1.8 if small else 3, torch.full((len(x),), float(angle)))


def _zoom(x: Tensor, small: bool, generator: Generator) -> Iterator[Tensor]:
    total = x.clone()
    yield x
    for i in range(1, _FRAMES):
        total += _warp(x, _scaled(1 + 0.004 * i))
        yield total / (i + 1)


def _snow(x: Tensor, small: bool, generator: Generator) -> Iterator[Tensor]:
    size = x.shape[-1]
    layer = 0.05 + 0.3 * torch.randn(len(x), 1, size, size, generator=generator).to(x.device)
    layer = fields.apply(fields.zoom_matrix(size, 2 if small else 3).to(x.device), layer)
    layer = (torch.where(layer < 0.5, 0.0, layer).clamp(0, 1) * 255).floor()
    gray = (0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2])[:, None]
    pale = 0.85 * x + 0.15 * torch.maximum(x, 1.5 * gray + 0.5)
    for i in range(_FRAMES):
        angle = torch.full((len(x),), 4.0 * i - 150)
        moved = fields.motion_blur(layer, 10 if small else 14, 2 if small else 4, angle).round() / 255
        yield pale + moved + moved.rot90(2, (2, 3))


def _brightness(x: Tensor, small: bool, generator: Generator) -> Iterator[Tensor]:
    hue, saturation, value = fields.rgb_to_hsv(x)
    for i in range(_FRAMES):
        change = (i - 15) * (1.5 if small else 2) / 100
        yield fields.hsv_to_rgb(hue, saturation, (value + change).clamp(0, 1))


def _translate(x: Tensor, small: bool, generator: Generator) -> Iterator[Tensor]:
    moves = [i - 7 for i in range(16)] if small else [i - 20 for i in range(41)]
    for move in moves:
        matrix = torch.eye(3)
        matrix[0, 2] = -2 * move / x.shape[-1]
        yield _warp(x, matrix)


def _rotate(x: Tensor, small: bool, generator: Generator) -> Iterator[Tensor]:
    for i in range(_FRAMES):
        turn = torch.deg2rad(torch.tensor(float(i - 15)))
        matrix = torch.eye(3)
        matrix[0, 0] = matrix[1, 1] = turn.cos()
        matrix[0, 1], matrix[1, 0] = turn.sin(), -turn.sin()
        yield _warp(x, matrix)


def _tilt(x: Tensor, small: bool, generator: Generator) -> Iterator[Tensor]:
    size = float(x.shape[-1])
    distance = (2 * size * size) ** 0.5
    for i in range(_FRAMES):
        angle = torch.deg2rad(torch.tensor((0.75 if small else 1.0) * (i - 15), dtype=torch.float64))
        sin, cos = angle.sin(), angle.cos()
        first = torch.tensor([[1, 0, -size / 2], [0, 1, -size / 2], [0, 0, 1], [0, 0, 1]], dtype=torch.float64)
        one, none = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)

        def rows(*values: Tensor) -> Tensor:
            return torch.stack(values).view(4, 4)

        about_x = rows(one, none, none, none, none, cos, -sin, none, none, sin, cos, none, none, none, none, one)
        about_y = rows(cos, none, -sin, none, none, one, none, none, sin, none, cos, none, none, none, none, one)
        away = torch.eye(4, dtype=torch.float64)
        away[2, 3] = distance
        last = torch.tensor([[distance, 0, size / 2, 0], [0, distance, size / 2, 0], [0, 0, 1, 0]], dtype=torch.float64)
        forward = last @ away @ about_x @ about_y @ first  # pixels to pixels
        to_pixels = torch.tensor([[size / 2, 0, size / 2 - 0.5], [0, size / 2, size / 2 - 0.5], [0, 0, 1]]).double()
        yield _warp(x, (to_pixels.inverse() @ forward.inverse() @ to_pixels).float())


def _scale(x: Tensor, small: bool, generator: Generator) -> Iterator[Tensor]:
    for i in range(_FRAMES):
        yield _warp(x, _scaled((2 * i + 70) / 100 if small else (2.5 * i + 40) / 100))


def _scaled(factor: float) -> Float[Tensor, "3 3"]:
    return torch.diag(torch.tensor([1 / factor, 1 / factor, 1.0]))


def _warp(x: Float[Tensor, "n 3 h w"], back: Float[Tensor, "3 3"]) -> Float[Tensor, "n 3 h w"]:
    """Bilinear, black outside; `back` takes places of the result to places of the image, both from -1 to 1."""
    size = x.shape[-1]
    axis = (2 * torch.arange(size) + 1) / size - 1
    y, across = torch.meshgrid(axis, axis, indexing="ij")
    place = torch.stack([across, y, torch.ones_like(y)], -1) @ back.T
    grid = (place[..., :2] / place[..., 2:]).to(x.device)
    return F.grid_sample(x, grid.expand(len(x), -1, -1, -1), align_corners=False)


_FUNCTIONS = {
    "gaussian_noise": _noise,
    "shot_noise": _shot,
    "motion_blur": _motion,
    "zoom_blur": _zoom,
    "snow": _snow,
    "brightness": _brightness,
    "translate": _translate,
    "rotate": _rotate,
    "tilt": _tilt,
    "scale": _scale,
}
