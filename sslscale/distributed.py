"""Rank, world size, and collectives that are the identity in a world of one. The only place that asks."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sslscale.errors import ConfigError


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


_sizes: dict[int, tuple[int, ...] | None] = {}  # see expect; empty where all workers have equally many rows


def unit_of(total: int, totals: Iterable[int]) -> int:
    """How many rows of a batch go together, where several batches are dealt to the workers.

    If the smallest batch divides the others, a worker has as many rows of those for each row of that one: so that its
    share of all of them is the same.
    """
    least = min(totals)
    return total // least if all(other % least == 0 for other in totals) else 1


def part(total: int, unit: int = 1, number: int | None = None) -> slice:
    """This worker's part of `total` rows, or that of worker `number`: the parts differ by one unit of rows at most."""
    number, world, units = rank() if number is None else number, world_size(), total // unit
    return slice(units * number // world * unit, units * (number + 1) // world * unit)


def expect(totals: Iterable[int]) -> None:
    """Say how many rows the batches of all workers together have, before a step.

    Where a number does not divide over the workers, the functions below then know from its own rows how many each
    worker has: of one of the batches, or of several views of it.
    """
    _sizes.clear()
    totals = tuple(sorted(set(totals)))
    if any(total % world_size() for total in totals):
        _sizes.update(_table(totals, world_size(), rank()))


@functools.lru_cache(maxsize=64)
def _table(totals: tuple[int, ...], world: int, own: int) -> dict[int, tuple[int, ...] | None]:
    """The rows of each worker by those of this one; None where two batches may be meant, on whichever worker."""
    every: dict[tuple[int, int], tuple[int, ...]] = {}
    for total in totals:
        unit = unit_of(total, totals)
        ends = [total // unit * number // world * unit for number in range(world + 1)]
        for views in range(1, _VIEWS + 1):
            every[total, views] = tuple(views * (b - a) for a, b in itertools.pairwise(ends))
    meant: list[dict[int, set[tuple[int, ...]]]] = [{} for _ in range(world)]
    for sizes in every.values():
        for number, size in enumerate(sizes):
            meant[number].setdefault(size, set()).add(sizes)
    unclear = {sizes for by_size in meant for found in by_size.values() if len(found) > 1 for sizes in found}
    return {size: None if found & unclear else next(iter(found)) for size, found in meant[own].items()}


_VIEWS = 64  # of one batch, in one tensor


def _of(count: int) -> tuple[int, ...]:
    """The rows of each worker, given this one's; raises ConfigError if they are not those of a batch."""
    if not _sizes:
        return (count,) * world_size()
    sizes = _sizes.get(count)
    if sizes is None:
        raise ConfigError(
            f"the batches do not divide over {world_size()} workers, and {count} rows may be parts of several of them: "
            "choose batch sizes that are multiples of the number of workers"
        )
    return sizes


def total(count: int) -> int:
    """The rows of all workers, where this one has `count`."""
    return sum(_of(count)) if world_size() > 1 else count


def rows(count: int) -> slice:
    """The place of this worker's `count` rows among those of all workers."""
    start = sum(_of(count)[: rank()]) if world_size() > 1 else 0
    return slice(start, start + count)


def share(count: int) -> float:
    """What a mean over this worker's `count` rows weighs in the average over the workers: 1 where parts are equal."""
    return count * world_size() / total(count) if _sizes else 1.0


def mean(x: Tensor) -> Tensor:
    """The mean over this worker's rows, weighed so that its average over the workers is the mean over all rows."""
    value = x.mean()
    return value * share(len(x)) if _sizes else value


class _GatherOverWorkers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: tuple[int, ...]) -> Tensor:
        ctx.start, ctx.count, most = sum(sizes[: rank()]), len(x), max(sizes)
        own = x.detach().contiguous()
        if len(x) < most:  # workers send equally many rows
            own = torch.cat([own, own.new_zeros(most - len(x), *x.shape[1:])])
        every = own.new_empty((world_size() * most, *x.shape[1:]))
        dist.all_gather_into_tensor(every, own)
        if min(sizes) == most:
            return every
        return torch.cat([every[number * most :][:size] for number, size in enumerate(sizes)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        # every worker's loss depends on this worker's rows
        whole = grads[0].detach().clone()
        dist.all_reduce(whole)
        return whole[ctx.start : ctx.start + ctx.count], None


def gather(x: Tensor) -> Tensor:
    """Rows of all workers, in their order, differentiable: (n, ...) -> (total, ...)."""
    return _GatherOverWorkers.apply(x, _of(len(x))) if world_size() > 1 else x  # pyright: ignore[reportReturnType]


def gather_equal(x: Tensor) -> Tensor:
    """As `gather`, of what every worker has equally many rows of, such as one."""
    sizes = (len(x),) * world_size()
    return _GatherOverWorkers.apply(x, sizes) if world_size() > 1 else x  # pyright: ignore[reportReturnType]


def backend(*, cuda: bool, host_too: bool = False) -> str:
    """What a process group is made of; with `host_too` it also reduces what a GPU's worker keeps in the host's
    memory."""
    return ("cpu:gloo,cuda:nccl" if host_too else "nccl") if cuda else "gloo"


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
