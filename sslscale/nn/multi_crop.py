"""Views of several sizes through one network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def encode_views(network: nn.Module, views: Sequence[Float[Tensor, "batch 3 h w"]]) -> list[Float[Tensor, "batch dim"]]:
    """Features of each view; neighbours of one size go through at once, and share batch statistics (as SwAV's code)."""
    found: list[Tensor] = []
    for _, group in groupby(views, key=lambda view: view.shape[-1]):
        same = list(group)
        found += network(torch.cat(same)).chunk(len(same))
    return found
