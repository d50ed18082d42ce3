"""Exponential moving averages of a network's weights."""

from __future__ import annotations

import math

import torch
from torch import nn


@torch.no_grad()
def update_ema(average: nn.Module, module: nn.Module, momentum: float, *, buffers: bool = True) -> None:
    """average <- momentum * average + (1 - momentum) * module, batch statistics too; counters are copied.

    Statistics of the last few batches would not fit weights that are an average over many steps: copying them took 3
    points of CIFAR-10. Without `buffers` they stay: of a teacher that sees images itself, in training mode.
    """
    for mine, other in zip(average.parameters(), module.parameters(), strict=True):
        # under ZeRO 3 a weight is empty between steps, and this worker's part of it is its ds_tensor
        mine, other = (getattr(weight, "ds_tensor", weight) for weight in (mine, other))
        mine.lerp_(other.to(mine.dtype), 1 - momentum)
    if buffers:
        for mine, other in zip(average.buffers(), module.buffers(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(other, 1 - momentum)
            else:
                mine.copy_(other)


def cosine_momentum(start: float, progress: float) -> float:
    """BYOL's and DINO's: 1 - (1 - start) (cos(pi k / K) + 1) / 2, with k / K as `progress`; it ends at 1."""
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


def warm_momentum(momentum: float, step: int) -> float:
    """TensorFlow's ramp, min(momentum, (1 + step) / (10 + step)), so that early weights are soon forgotten."""
    return min(momentum, (1 + step) / (10 + step))
