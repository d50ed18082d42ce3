"""Wide residual networks for small images (Zagoruyko & Komodakis 2016, arXiv:1605.07146), which timm lacks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslscale.nn.pointwise import Pointwise
from sslscale.shapes import Float


class StochasticDepth(nn.Module):
    """Drop the residual branch of each image with probability 1 - survival, and scale what is kept by 1 / survival."""

    def __init__(self, survival: float):
        super().__init__()
        self.survival = survival

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        if not self.training or self.survival == 1.0:
            return x
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) < self.survival
        return x * (kept.to(x.dtype) / self.survival)


class _Block(nn.Module):
    """BN-ReLU-conv twice, with the identity beside it."""

    def __init__(self, inputs: int, outputs: int, stride: int, survival: float):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        changes = inputs != outputs or stride != 1
        self.shortcut = Pointwise(inputs, outputs, stride) if changes else None
        self.depth = StochasticDepth(survival)

    def forward(self, x: Tensor) -> Tensor:
        active = self.norm1(x).relu_()
        out = self.conv2(self.norm2(self.conv1(active)).relu_())
        return (x if self.shortcut is None else self.shortcut(active)) + self.depth(out)


class WideResNet(nn.Module):
    """Three stages of (depth - 4) / 6 blocks with 16, 32 and 64 times `width` channels; mean-pooled features.

    The stem is a convolution of 3 x 3, or of 4 x 4 with a `stem_stride` of 2.
    """

    def __init__(self, depth: int, width: float, *, survival: float = 1.0, stem_stride: int = 1, channels: int = 3):
        super().__init__()
        blocks = (depth - 4) // 6
        widths = [max(round(c * width), 4) for c in (16, 32, 64)]
        self.stem = nn.Conv2d(channels, 16, 2 + stem_stride, stem_stride, 1, bias=False)
        layers: list[nn.Module] = []
        inputs = 16
        for stage, outputs in enumerate(widths):
            for number in range(blocks):
                # block l of L survives with 1 - l / L * (1 - survival): eq. 4 of arXiv:1603.09382
                keep = 1 - (len(layers) + 1) / (3 * blocks) * (1 - survival)
                layers.append(_Block(inputs, outputs, 2 if stage and not number else 1, keep))
                inputs = outputs
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(inputs)
        self.num_features = inputs
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self, x: Float[Tensor, "batch channels h w"], *, maps: bool = False
    ) -> Float[Tensor, "batch features ..."]:
        """Mean-pooled features, or with `maps` those of each place: (batch, features, h', w')."""
        found = self.norm(self.blocks(self.stem(x))).relu_()
        return found if maps else found.mean((2, 3))
