"""Projectors and predictors: perceptrons with batch norm."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import nn


def mlp(sizes: Sequence[int], *, last: Literal["linear", "norm", "plain_norm"] = "linear") -> nn.Sequential:
    """Linear layers between `sizes`, batch norm and ReLU after each but the last.

    The last ends as it is (with a bias), in batch norm, or in batch norm without scale and shift.
    """
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(sizes)):
        final = number == len(sizes) - 2
        layers.append(nn.Linear(inputs, outputs, bias=final and last == "linear"))
        if not final:
            layers += [nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
        elif last != "linear":
            layers.append(nn.BatchNorm1d(outputs, affine=last == "norm"))
    return nn.Sequential(*layers)
