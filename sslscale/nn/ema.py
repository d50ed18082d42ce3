"""Exponential moving averages of a network's weights."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.distributed.tensor import DTensor


@torch.no_grad()
def update_ema(average: nn.Module, module: nn.Module, momentum: float, *, buffers: bool = True) -> None:
    """average <- momentum * average + (1 - momentum) * module, batch statistics too; counters are copied.

    Statistics of the last few batches would not fit weights that are an average over many steps: copying them took 3
    points of CIFAR-10. Without `buffers` they stay: of a teacher that sees images itself, in training mode.
    """
    pairs = []
    for mine, other in zip(average.parameters(), module.parameters(), strict=True):
        # under ZeRO 3 a weight is empty between steps, and this worker's part of it is its ds_tensor
        mine, other = (getattr(weight, "ds_tensor", weight) for weight in (mine, other))
        pairs.append((mine, other.to(mine.dtype)))
    if buffers:
        for mine, other in zip(average.buffers(), module.buffers(), strict=True):
            if mine.is_floating_point():
                pairs.append((mine, other))
            else:
                mine.copy_(other)
    if not pairs:
        return
    if pairs[0][0].device.type == "cpu" or any(type(mine) is DTensor for mine, _ in pairs):
        for mine, other in pairs:
            mine.lerp_(other, 1 - momentum)
    else:  # a few kernels for all weights
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            [mine for mine, _ in pairs], [other for _, other in pairs], 1 - momentum
        )


def cosine_momentum(start: float, progress: float) -> float:
    """BYOL's and DINO's: 1 - (1 - start) (cos(pi k / K) + 1) / 2, with k / K as `progress`; it ends at 1."""
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


def linear_momentum(start: float, progress: float) -> float:
    """I-JEPA's and MSN's: from `start` to 1 in a line over the training."""
    return start + (1 - start) * progress


def warm_momentum(momentum: float, step: int) -> float:
    """TensorFlow's ramp, min(momentum, (1 + step) / (10 + step)), so that early weights are soon forgotten."""
    return min(momentum, (1 + step) / (10 + step))
