"""What stands above a network's map of features: convolutions that make it larger."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale.errors import ConfigError
from sslscale.shapes import Float


class Upsample(nn.Module):
    """A convolution of 3 x 3, batch norm and ReLU, and the map scaled bilinearly to a size that is asked for."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Float[Tensor, "batch c h w"], size: tuple[int, int]) -> Float[Tensor, "batch outputs _ _"]:
        x = self.norm(self.convolution(x)).relu()
        return x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear")


class Decoder(nn.Module):
    """From a map of `grid` x `grid` places to an image of `size` pixels a side.

    Each channel's places are connected with all of its places (arXiv:1604.07379, section 3.1: channel-wise), then
    channels by a convolution of 1 x 1; transposed convolutions of 4 x 4 double the sides.
    """

    def __init__(self, inputs: int, width: int, grid: int, size: int):
        super().__init__()
        doublings = math.log2(size / grid)
        if doublings != int(doublings) or doublings < 1:
            raise ConfigError(
                f"image.size: a map of {grid} x {grid} places cannot be doubled to an image of {size} pixels a side"
            )
        self.squeeze = nn.Sequential(nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.places = nn.Parameter(torch.empty(width, grid * grid, grid * grid))
        nn.init.normal_(self.places, std=1 / grid)
        layers: list[nn.Module] = [nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        for number in range(int(doublings)):
            last, narrower = number == doublings - 1, max(width // 2, 16)
            layers.append(nn.ConvTranspose2d(width, 3 if last else narrower, 4, 2, 1, bias=last))
            if not last:
                layers += [nn.BatchNorm2d(narrower), nn.ReLU()]
            width = narrower
        self.layers = nn.Sequential(*layers)

    def forward(self, maps: Float[Tensor, "batch c grid grid"]) -> Float[Tensor, "batch 3 size size"]:
        x = self.squeeze(maps)
        spread = torch.einsum("bcp,cpq->bcq", x.flatten(2), self.places.to(x.dtype)).view_as(x)
        return self.layers(spread)


@torch.no_grad()
def tie_input_channels(backbone: nn.Module) -> None:
    """Let the first convolution weigh its input channels alike: fed the same image in all of them, it stays so."""
    first = next(m for m in backbone.modules() if isinstance(m, nn.Conv2d))
    first.weight.copy_(first.weight.mean(1, keepdim=True).expand_as(first.weight))
