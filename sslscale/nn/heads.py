"""Projectors and predictors: perceptrons with batch norm."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale.nn.vit_blocks import initialize_linear
from sslscale.shapes import Float


def mlp(
    sizes: Sequence[int], *, last: Literal["linear", "norm", "plain_norm"] = "linear", bias: bool = True
) -> nn.Sequential:
    """Linear layers between `sizes`, batch norm and ReLU after each but the last.

    The last ends as it is (with a bias if there shall be one), in batch norm, or in batch norm without scale and shift.
    """
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(sizes)):
        final = number == len(sizes) - 2
        layers.append(nn.Linear(inputs, outputs, bias=bias and final and last == "linear"))
        if not final:
            layers += [nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
        elif last != "linear":
            layers.append(nn.BatchNorm1d(outputs, affine=last == "norm"))
    return nn.Sequential(*layers)


class MeanOfHeads(nn.Module):
    """Two linear classifiers, of the class token and of the distillation token; a prediction is the mean of both (DeiT,
    arXiv:2012.12877, section 4)."""

    def __init__(self, num_features: int, num_classes: int):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(num_features // 2, num_classes) for _ in range(2))

    def each(self, x: Float[Tensor, "batch features"]) -> list[Float[Tensor, "batch classes"]]:
        """The logits of both; `x` is both tokens, one after the other."""
        return [head(token) for head, token in zip(self.heads, x.chunk(2, 1), strict=True)]

    def forward(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch classes"]:
        return torch.stack(self.each(x)).mean(0)


class CosineHead(nn.Module):
    """scale * cos(projection(features), class): what a text tower says of class names, as a classifier of images
    (arXiv:2103.00020, section 3.1)."""

    def __init__(self, num_features: int, dim: int, num_classes: int):
        super().__init__()
        self.projection = nn.Linear(num_features, dim, bias=False)
        self.classes = nn.Parameter(torch.zeros(num_classes, dim))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch classes"]:
        return self.scale * F.normalize(self.projection(x).float(), dim=1) @ F.normalize(self.classes.float(), dim=1).T


class PrototypeHead(nn.Module):
    """DINO's head: three layers with GELU, a bottleneck scaled to length 1, and cosines with prototypes.

    The last layer is normed by its weights, whose length is fixed at 1 (arXiv:2104.14294, appendix C).
    """

    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int, *, norm: bool = False):
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (width, hidden):
            layers += [nn.Linear(inputs, hidden), *([nn.BatchNorm1d(hidden)] if norm else []), nn.GELU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden, bottleneck))
        self.last = nn.Linear(bottleneck, prototypes, bias=False)
        initialize_linear(self)

    def forward(self, x: Float[Tensor, "batch width"]) -> Float[Tensor, "batch prototypes"]:
        return F.linear(F.normalize(self.mlp(x), dim=1), F.normalize(self.last.weight, dim=1))
