"""Ends a training early, at a step that all of its workers agree on, without making any of them wait."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sslscale import distributed
from sslscale.errors import UserError

_LAG = 2  # steps from a question to its answer, which is there by then
_LOOK_EVERY_S = 0.5


class Stopping:
    """Whether a training is to end before its last step.

    `asked` tells the main worker, in a thread: it may read a network's file system or a store. The main worker tells
    the others by a reduction of one number between the hosts at each step, which is read some steps later: no GPU
    waits for it, nor, as a rule, does a host.
    """

    def __init__(self, asked: Callable[[], bool]):
        self._asked, self._known, self._closed = asked, threading.Event(), threading.Event()
        self._on_its_way: collections.deque[tuple[dist.Work, Tensor]] = collections.deque()
        nccl = distributed.world_size() > 1 and dist.get_backend() != "gloo"
        self._group: Any = dist.new_group(backend="gloo") if nccl else None

    def __enter__(self) -> Stopping:
        if distributed.is_main():
            threading.Thread(target=self._look, daemon=True, name="stopping").start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed.set()

    def now(self) -> bool:
        """Whether to end after this step; called on all workers after each step."""
        if distributed.world_size() == 1:
            return self._known.is_set()
        flag = torch.tensor([int(self._known.is_set())])
        work: Any = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group, async_op=True)
        self._on_its_way.append((work, flag))
        if len(self._on_its_way) <= _LAG:
            return False
        work, flag = self._on_its_way.popleft()
        work.wait()
        return bool(flag)

    def _look(self) -> None:
        while not self._closed.wait(_LOOK_EVERY_S):
            with contextlib.suppress(UserError, OSError):  # a store that does not answer now may answer later
                if self._asked():
                    self._known.set()
                    return
