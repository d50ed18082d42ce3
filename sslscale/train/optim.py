"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor, nn

from sslscale.errors import ConfigError
from sslscale.settings.train import OptimConfig, ScheduleConfig
from sslscale.train.lars import LARS


def build_optimizer(module: nn.Module, config: OptimConfig, *, fused: bool | None = None) -> torch.optim.Optimizer:
    """Make the optimiser over the trainable weights; vectors (biases, norms) are not decayed.

    A group's learning rate is `share` times the schedule's, or times the peak where it is not `scheduled`; its decay is
    the schedule's where it is `decayed`.
    """
    trained = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    constant = getattr(module, "constant_lr", ())
    found: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    for (name, parameter), share in zip(trained, _shares(module, config), strict=True):
        matrix = parameter.ndim > 1
        if not matrix and config.bias_lr is not None:
            share *= config.bias_lr / config.lr
        found.setdefault((share, matrix, not name.startswith(constant)), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if matrices else 0.0,
            "share": share,
            "decayed": matrices,
            "scheduled": scheduled,
        }
        for (share, matrices, scheduled), parameters in sorted(found.items(), key=lambda item: item[0], reverse=True)
    ]
    # on a GPU one kernel updates all weights; on a CPU grouped operations are as fast
    if fused is None:
        fused = bool(trained) and trained[0][1].device.type == "cuda"
    how: dict[str, Any] = {"fused": True} if fused else {"foreach": True}
    if config.name == "sgd":
        nesterov = config.nesterov and config.momentum > 0
        sgd = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov, **how)
        if fused and config.momentum:
            # a weight that is frozen at first gets its momentum later than the others, which the fused kernel does not
            # expect; a momentum of zeros gives the same first step
            for weight in (weight for group in groups for weight in group["params"]):
                sgd.state[weight]["momentum_buffer"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        return sgd
    if config.name == "lars":
        groups = [{**group, "adapt": group["params"][0].ndim > 1} for group in groups]
        return LARS(groups, config.lr, momentum=config.momentum, trust=config.trust)
    if config.name == "rmsprop":  # EfficientNet's: decay .9, epsilon 1e-3
        return torch.optim.RMSprop(groups, lr=config.lr, alpha=0.9, eps=1e-3, momentum=config.momentum, foreach=True)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, **how)


def _shares(module: nn.Module, config: OptimConfig) -> list[float]:
    """layer_decay^(layers above) for each weight: what comes before the first block is layer 0, block n is layer n + 1,
    the norm and heads after the last block are the top layer."""
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    if config.layer_decay == 1:
        return [1.0] * len(names)
    blocks = [re.search(r"(?:^|\.)blocks\.(\d+)\.", name) for name in names]
    numbers = [int(block[1]) + 1 for block in blocks if block]
    if not numbers:
        raise ConfigError("optim.layer_decay: the network has no blocks (it is meant for ViT and for wrn)")
    first, top = next(i for i, block in enumerate(blocks) if block), max(numbers) + 1
    layers = [int(b[1]) + 1 if b else 0 if place < first else top for place, b in enumerate(blocks)]
    return [config.layer_decay ** (top - layer) for layer in layers]


def step_if(optimizer: torch.optim.Optimizer, finite: Tensor, *, on_gpu: bool) -> None:
    """Step if `finite`, bool (), is true. On a GPU the host does not wait for it: the kernels see it themselves.

    RMSprop, whose kernels do not, takes a step of its momentum alone.
    """
    if not on_gpu:
        if finite:
            optimizer.step()
        return
    wrong = ~finite
    if isinstance(optimizer, torch.optim.RMSprop):
        for group in optimizer.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.grad = torch.where(wrong, 0.0, weight.grad)
        optimizer.step()
        return
    optimizer.found_inf = wrong.float()  # pyright: ignore[reportAttributeAccessIssue]
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # pyright: ignore[reportAttributeAccessIssue]


def lr_share(schedule: ScheduleConfig, step: int, num_steps: int) -> float:
    """The learning rate of `step` (from 0) as a share of its peak."""
    if step < schedule.warmup_steps:
        return (step + 1) / (schedule.warmup_steps + 1)
    progress = (step - schedule.warmup_steps) / max(num_steps - schedule.warmup_steps, 1)
    if schedule.name == "cosine":
        return schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * progress))
    if schedule.name == "cosine_7_16":
        return math.cos(7 * math.pi / 16 * progress)
    if schedule.name == "step":
        return schedule.decay ** sum(progress >= milestone for milestone in schedule.milestones)
    if schedule.name == "exponential":
        return max(schedule.decay ** ((step - schedule.warmup_steps) // schedule.decay_steps), schedule.final)
    return 1.0


def weight_decay(config: OptimConfig, progress: float) -> float:
    """The decay of matrices: from weight_decay to final_weight_decay by a half cosine (DINO, arXiv:2104.14294, 3.2)."""
    if config.final_weight_decay is None:
        return config.weight_decay
    final = config.final_weight_decay
    return final + (config.weight_decay - final) * (1 + math.cos(math.pi * progress)) / 2
