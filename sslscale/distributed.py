"""Rank, world size, and collectives that are the identity in a world of one. The only place that asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """The number of workers; 1 where no process group exists."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This worker's number, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """Whether this worker writes files and metrics."""
    return rank() == 0


def barrier() -> None:
    """Wait for all workers."""
    if world_size() > 1:
        dist.barrier()


class _SumOverWorkers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        total = x.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # y_w = sum_v x_v on every worker w, so dL/dx_v is the sum over w of dL/dy_w
        del ctx
        total = grads[0].detach().clone()
        dist.all_reduce(total)
        return total


def all_sum(x: Tensor) -> Tensor:
    """Sum over workers, differentiable: each worker's gradient is the sum of all workers' gradients."""
    return _SumOverWorkers.apply(x) if world_size() > 1 else x  # pyright: ignore[reportReturnType]


class _GatherOverWorkers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.count = len(x)
        every = x.new_empty((world_size() * len(x), *x.shape[1:]))
        dist.all_gather_into_tensor(every, x.detach().contiguous())
        return every

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # every worker's loss depends on this worker's rows
        total = grads[0].detach().clone()
        dist.all_reduce(total)
        return total[rank() * ctx.count : (rank() + 1) * ctx.count]


def backend(*, cuda: bool, host_too: bool = False) -> str:
    """What a process group is made of; with `host_too` it also reduces what a GPU's worker keeps in the host's
    memory."""
    return ("cpu:gloo,cuda:nccl" if host_too else "nccl") if cuda else "gloo"


def gather(x: Tensor) -> Tensor:
    """Rows of all workers, in their order, differentiable: (n, ...) -> (world_size * n, ...)."""
    return _GatherOverWorkers.apply(x) if world_size() > 1 else x  # pyright: ignore[reportReturnType]


def all_max(x: Tensor) -> Tensor:
    """Maximum over workers, element by element; not differentiable."""
    if world_size() > 1:
        x = x.detach().clone()
        dist.all_reduce(x, op=dist.ReduceOp.MAX)
    return x


def mean_scalars(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean of each scalar over the workers, in one collective."""
    stacked = torch.stack([value.detach().float().reshape(()) for value in values.values()])
    if world_size() > 1:
        dist.all_reduce(stacked)
        stacked /= world_size()
    return dict(zip(values, stacked.tolist(), strict=True))


def agree(value: int) -> tuple[int, int]:
    """The lowest and the highest `value` among the workers."""
    if world_size() == 1:
        return value, value
    pair = torch.tensor([value, -value], dtype=torch.int64)
    if dist.get_backend() == "nccl":
        pair = pair.cuda()
    dist.all_reduce(pair, op=dist.ReduceOp.MIN)
    return int(pair[0]), -int(pair[1])
