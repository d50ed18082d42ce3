"""Views of several sizes through one network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from sslscale.shapes import Float


def encode_views(
    network: nn.Module, views: Sequence[Float[Tensor, "batch channels _ _"]]
) -> list[Float[Tensor, "batch dim"]]:
    """Features of each view; neighbours of one size go through at once, and share batch statistics (as SwAV's code)."""
    found: list[Tensor] = []
    for _, group in groupby(views, key=lambda view: view.shape[-1]):
        same = list(group)
        found += network(torch.cat(same)).chunk(len(same))
    return found
