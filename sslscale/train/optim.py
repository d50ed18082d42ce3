"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from sslscale.recipes.train import OptimConfig, ScheduleConfig
from sslscale.train.lars import LARS


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Make the optimiser over the trainable weights; vectors (biases, norms) are not decayed."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    # on a GPU one kernel updates all weights; on a CPU grouped operations are as fast
    how: dict[str, Any] = {"fused": True} if trained and trained[0].device.type == "cuda" else {"foreach": True}
    if config.name == "sgd":
        nesterov = config.nesterov and config.momentum > 0
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov, **how)
    if config.name == "lars":
        groups = [{**group, "adapt": group["params"][0].ndim > 1} for group in groups]
        return LARS(groups, config.lr, momentum=config.momentum, trust=config.trust)
    if config.name == "rmsprop":  # EfficientNet's: decay .9, epsilon 1e-3
        return torch.optim.RMSprop(groups, lr=config.lr, alpha=0.9, eps=1e-3, momentum=config.momentum, foreach=True)
    return torch.optim.AdamW(groups, lr=config.lr, **how)


def lr_share(schedule: ScheduleConfig, step: int, num_steps: int) -> float:
    """The learning rate of `step` (from 0) as a share of its peak."""
    if step < schedule.warmup_steps:
        return (step + 1) / (schedule.warmup_steps + 1)
    progress = (step - schedule.warmup_steps) / max(num_steps - schedule.warmup_steps, 1)
    if schedule.name == "cosine":
        return schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * progress))
    if schedule.name == "step":
        return schedule.decay ** sum(progress >= milestone for milestone in schedule.milestones)
    if schedule.name == "exponential":
        return max(schedule.decay ** ((step - schedule.warmup_steps) // schedule.decay_steps), schedule.final)
    return 1.0
