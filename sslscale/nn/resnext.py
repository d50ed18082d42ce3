"""ResNeXt for small images (Xie et al. 2017, arXiv:1611.05431), as FixMatch's implementations in PyTorch have it: Mish
between the layers, and batch norms with a momentum of .001."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sslscale.nn.pointwise import Pointwise
from sslscale.shapes import Float

_WIDEN = 4  # channels of a stage over those of its first 1x1 convolutions' base of 64
_MOMENTUM = 0.001


class _Block(nn.Module):
    """1x1, grouped 3x3, 1x1, with a shortcut; type C of the paper."""

    def __init__(self, inputs: int, outputs: int, stride: int, cardinality: int, width: int):
        super().__init__()
        inner = cardinality * int(width * outputs / (_WIDEN * 64))
        self.reduce = nn.Conv2d(inputs, inner, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner, momentum=_MOMENTUM)
        self.grouped = nn.Conv2d(inner, inner, 3, stride, 1, groups=cardinality, bias=False)
        self.norm2 = nn.BatchNorm2d(inner, momentum=_MOMENTUM)
        self.expand = nn.Conv2d(inner, outputs, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs, momentum=_MOMENTUM)
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            convolution = Pointwise(inputs, outputs, stride)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outputs, momentum=_MOMENTUM))

    def forward(self, x: Tensor) -> Tensor:
        inner = F.mish(self.norm1(self.reduce(x)))
        inner = F.mish(self.norm2(self.grouped(inner)))
        return F.mish(self.shortcut(x) + self.norm3(self.expand(inner)))


class SmallResNeXt(nn.Module):
    """Three stages of (depth - 2) / 9 blocks with 256, 512 and 1,024 channels, `cardinality` groups of `width` in the
    first stage; mean-pooled features. The stem is a convolution of 3 x 3 without a stride."""

    def __init__(self, depth: int, cardinality: int, width: int, *, channels: int = 3):
        super().__init__()
        self.stem = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(64, momentum=_MOMENTUM)
        layers: list[nn.Module] = []
        inputs = 64
        for stage in range(3):
            outputs = 64 * _WIDEN * 2**stage
            for number in range((depth - 2) // 9):
                layers.append(_Block(inputs, outputs, 2 if stage and not number else 1, cardinality, width))
                inputs = outputs
        self.blocks = nn.Sequential(*layers)
        self.num_features = inputs
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu")

    def forward(
        self, x: Float[Tensor, "batch channels h w"], *, maps: bool = False
    ) -> Float[Tensor, "batch features ..."]:
        """Mean-pooled features, or with `maps` those of each place: (batch, features, h', w')."""
        found = self.blocks(F.mish(self.norm(self.stem(x))))
        return found if maps else found.mean((2, 3))
