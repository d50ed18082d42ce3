"""A strided 1x1 convolution that is safe on CPUs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslscale.shapes import Float

_ONEDNN_BLOCK = 16  # channels that oneDNN computes at once with AVX-512; 8 with AVX2


class Pointwise(nn.Conv2d):
    """A 1x1 convolution without bias, whose stride is taken before it where oneDNN's own stride is wrong.

    With fewer input channels than a block, a stride, and channels last, oneDNN (3.13, as in torch 2.15) writes the
    gradient of the weights past its buffer: wrong numbers or a crash (github.com/uxlfoundation/oneDNN/issues/6035).
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__(inputs, outputs, 1, stride, bias=False)

    def forward(self, input: Float[Tensor, "batch inputs h w"]) -> Float[Tensor, "batch outputs out_h out_w"]:
        step = self.stride[0]
        if step > 1 and self.in_channels < _ONEDNN_BLOCK and input.is_cpu and torch.is_grad_enabled():
            return F.conv2d(input[..., ::step, ::step], self.weight)
        return super().forward(input)
