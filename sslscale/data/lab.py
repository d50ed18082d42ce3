"""CIE Lab (D65, 2 degrees) of sRGB images, and the bins of colour that colorization predicts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sslscale.shapes import Float

# sRGB (IEC 61966-2-1) to XYZ, divided by the white point; numbers, so that no matrix is sent to a device
_WHITE = (0.95047, 1.0, 1.08883)
_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_TO_XYZ = [[value / white for value in row] for row, white in zip(_XYZ, _WHITE, strict=True)]
_FROM_XYZ = torch.linalg.inv(torch.tensor(_TO_XYZ, dtype=torch.float64)).tolist()
_EPSILON, _KAPPA = 0.008856, 7.787
BIN = 10  # side of a bin in a and b


def mix_channels(
    images: Float[Tensor, "batch 3 h w"], matrix: Sequence[Sequence[float]]
) -> Float[Tensor, "batch 3 h w"]:
    """Each new channel is the sum of the old ones times a row of the matrix."""
    one, two, three = images.unbind(1)
    return torch.stack([a * one + b * two + c * three for a, b, c in matrix], 1)


def rgb_to_lab(images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 3 h w"]:
    """L in 0 to 100, a and b about -110 to 110, of RGB from 0 to 1."""
    x = images.clamp(0, 1)
    linear = torch.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)
    xyz = mix_channels(linear, _TO_XYZ)
    f = torch.where(xyz > _EPSILON, xyz.clamp(min=1e-12) ** (1 / 3), _KAPPA * xyz + 16 / 116)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def lab_to_rgb(lab: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 3 h w"]:
    """RGB from 0 to 1; colours that a screen cannot show are clipped."""
    light, a, b = lab.unbind(1)
    y = (light + 16) / 116
    f = torch.stack([y + a / 500, y, y - b / 200], 1)
    xyz = torch.where(f > _EPSILON ** (1 / 3), f**3, (f - 16 / 116) / _KAPPA)
    linear = mix_channels(xyz, _FROM_XYZ)
    bent = 1.055 * linear.clamp(min=1e-12) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, bent, 12.92 * linear).clamp(0, 1)


def ab_bins() -> Float[Tensor, "bins 2"]:
    """Points of a grid of 10 in ab with an sRGB colour less than 10 away in both, in order of a, then b.

    They are 306, from -90 to 100 and from -110 to 100. The file that comes with the authors' code has 313 of them in
    nearly the same place; how they were chosen is not said.
    """
    steps = torch.linspace(0, 1, 86)  # every third of the 256 values
    colours = torch.cartesian_prod(steps, steps, steps)[:, :, None, None]
    a, b = (rgb_to_lab(colours)[:, 1:, 0, 0] / BIN).unbind(1)
    near = [torch.stack([f(a), g(b)], 1) for f in (torch.floor, torch.ceil) for g in (torch.floor, torch.ceil)]
    return torch.unique(torch.cat(near).long(), dim=0).float() * BIN
