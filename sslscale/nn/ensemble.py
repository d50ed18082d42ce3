"""Several networks of one kind as a single classifier, whose logits are the mean of theirs."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sslscale.shapes import Float


class Backbones(nn.Module):
    """The features of several networks, one after the other."""

    def __init__(self, members: Iterable[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch features"]:
        return torch.cat([member(x) for member in self.members], 1)


class MeanOfMembers(nn.Module):
    """The mean of the logits that each member's head gives for that member's features."""

    def __init__(self, members: Iterable[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch classes"]:
        parts = x.chunk(len(self.members), 1)
        return torch.stack([head(part) for head, part in zip(self.members, parts, strict=True)]).mean(0)
