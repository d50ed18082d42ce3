"""The blocks of a network: what is sharded, or computed twice to save memory, at a time."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from sslscale.nn.batch_norm import statistics_unmoved


def blocks(module: nn.Module) -> list[nn.Module]:
    """The innermost elements of lists and sequences that hold two weight matrices or more: residual and ViT blocks."""
    return list(_blocks(module))


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    listed = isinstance(module, (nn.Sequential, nn.ModuleList))
    for child in module.children():
        inner = list(_blocks(child))
        if inner:
            yield from inner
        elif listed and sum(p.ndim > 1 for p in child.parameters()) > 1:
            yield child


def checkpoint_activations(module: nn.Module) -> None:
    """Keep only the inputs of each block for the backward pass, which computes the rest again.

    A second pass leaves no second trace in running means and variances.
    """
    for block in blocks(module):

        def contexts(block: nn.Module = block) -> tuple[Any, Any]:
            return contextlib.nullcontext(), statistics_unmoved(block)

        again: Any = functools.partial(checkpoint, block.forward, use_reentrant=False, context_fn=contexts)
        block.forward = again
