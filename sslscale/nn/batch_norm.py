"""Batch normalisation over the global batch: torch's SyncBatchNorm on GPUs, and on CPUs, for which it is not made, the
same by one gather of each worker's mean and variance."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sslscale import distributed
from sslscale.shapes import Float


def global_batch_norm(norm: _BatchNorm, input: Float[Tensor, "batch c ..."]) -> Float[Tensor, "batch c ..."]:
    """What `norm` gives when mean and variance are those of all workers' images together."""
    if not norm.training or distributed.world_size() == 1:
        return _BatchNorm.forward(norm, input)
    x = input.float()
    others = (0, *range(2, x.ndim))
    # each worker's variance is about its own mean, and the means' about theirs: E[x^2] - E[x]^2 would lose all digits
    # of features whose mean is large (Chan et al. 1979)
    local_variance, local_mean = torch.var_mean(x, others, correction=0)
    local_count = torch.full_like(local_mean, x.numel() // x.shape[1])
    sent = torch.stack([local_mean, local_variance, local_count.detach()])[None]
    means, variances, counts = distributed.gather_equal(sent).unbind(1)
    weight, count = counts / counts.sum(0), counts[:, 0].sum()
    mean = (weight * means).sum(0)
    variance = (weight * (variances + (means - mean).square())).sum(0)
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        with torch.no_grad():
            count_seen = norm.num_batches_tracked
            if count_seen is not None:
                count_seen += 1
            share = norm.momentum if norm.momentum is not None else 1.0 / float(count_seen or 1)
            norm.running_mean.lerp_(mean, share)
            norm.running_var.lerp_(variance * (count / (count - 1).clamp(min=1)), share)
    shape = (1, -1, *[1] * (x.ndim - 2))
    normed = (x - mean.view(shape)) * torch.rsqrt(variance + norm.eps).view(shape)
    if norm.affine:
        normed = normed * norm.weight.view(shape) + norm.bias.view(shape)
    return normed.to(input.dtype)


class GlobalBatchNorm1d(nn.BatchNorm1d):
    """BatchNorm1d over all workers' rows."""

    def forward(self, input: Float[Tensor, "batch c"]) -> Float[Tensor, "batch c"]:
        return global_batch_norm(self, input)


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d over all workers' images."""

    def forward(self, input: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        return global_batch_norm(self, input)


def use_global(module: nn.Module, *, on_gpu: bool = False) -> nn.Module:
    """Turn every batch norm (1d, 2d) below `module` into its global form; weights and statistics stay.

    timm's norms with an activation inside keep it. Raises TypeError for a norm of an unknown kind, which would
    silently stay local.
    """
    if on_gpu:
        if "timm" in sys.modules:
            from timm.layers.norm_act import convert_sync_batchnorm

            return convert_sync_batchnorm(module)
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    with_activation: type | None = None
    if "timm" in sys.modules:
        from timm.layers.norm_act import BatchNormAct2d

        class GlobalBatchNormAct2d(BatchNormAct2d):
            def forward(self, x: Tensor) -> Tensor:
                activation: Any = self  # timm's annotations hide its parts
                return activation.act(activation.drop(global_batch_norm(activation, x)))

        with_activation = BatchNormAct2d
    for child in module.modules():
        if type(child) is nn.BatchNorm1d:
            child.__class__ = GlobalBatchNorm1d
        elif type(child) is nn.BatchNorm2d:
            child.__class__ = GlobalBatchNorm2d
        elif with_activation is not None and type(child) is with_activation:
            child.__class__ = GlobalBatchNormAct2d  # pyright: ignore[reportPossiblyUnboundVariable]
        elif isinstance(child, _BatchNorm) and not isinstance(child, (GlobalBatchNorm1d, GlobalBatchNorm2d)):
            raise TypeError(f"sync_batch_norm does not know {type(child).__name__}")
    return module


@contextlib.contextmanager
def statistics_unmoved(module: nn.Module) -> Iterator[None]:
    """Let images through a second time, computing the very same, with no second trace in the running statistics."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None  # a running mean that takes nothing of the new one
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


@contextlib.contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Let images through in training mode without a trace in the running means and variances."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
