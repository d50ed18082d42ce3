"""Exponential moving averages of a network's weights."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_ema(average: nn.Module, module: nn.Module, momentum: float) -> None:
    """average <- momentum * average + (1 - momentum) * module; buffers (batch statistics, counters) are copied."""
    for mine, other in zip(average.parameters(), module.parameters(), strict=True):
        mine.lerp_(other.to(mine.dtype), 1 - momentum)
    for mine, other in zip(average.buffers(), module.buffers(), strict=True):
        mine.copy_(other)


def warm_momentum(momentum: float, step: int) -> float:
    """TensorFlow's ramp, min(momentum, (1 + step) / (10 + step)), so that early weights are soon forgotten."""
    return min(momentum, (1 + step) / (10 + step))
