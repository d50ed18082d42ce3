"""Batch normalisation over the global batch, on any device.

torch's SyncBatchNorm needs a GPU; this one gives the same on CPU and GPU, so that what is tested here is what runs
there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sslscale import distributed

if TYPE_CHECKING:
    from jaxtyping import Float


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose mean and variance are those of all workers' images together."""

    def forward(self, input: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        if not self.training or distributed.world_size() == 1:
            return super().forward(input)
        x = input.float()
        local = torch.stack([x.sum((0, 2, 3)), (x * x).sum((0, 2, 3))])
        count = x.numel() // x.shape[1] * distributed.world_size()
        mean, square = distributed.all_sum(local) / count
        variance = (square - mean * mean).clamp(min=0)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                assert self.num_batches_tracked is not None
                self.num_batches_tracked += 1
                share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(variance * (count / max(count - 1, 1)), share)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        shift = self.bias - mean * scale
        return (x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)).to(input.dtype)


def use_global(module: nn.Module) -> nn.Module:
    """Turn every BatchNorm2d below `module` into its global form, in place; weights and statistics stay.

    The class alone is exchanged: subclasses (timm's fused norm-and-activation layers) have a forward of their own.
    """
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = GlobalBatchNorm2d
    return module
