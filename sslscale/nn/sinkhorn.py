"""Assignments of images to prototypes that use all prototypes evenly."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sslscale import distributed
from sslscale.losses import in_float32
from sslscale.shapes import Float


@torch.no_grad()
@in_float32
def sinkhorn(
    scores: Float[Tensor, "batch prototypes"], epsilon: float, num_iterations: int
) -> Float[Tensor, "batch prototypes"]:
    """Soft assignments of this worker's rows, each a distribution (SwAV, arXiv:2006.09882, eq. 3 and algorithm 1).

    Q = diag(u) exp(scores / epsilon) diag(v), every prototype with an equal share of the rows of all workers.
    """
    scores = scores.float()
    highest = distributed.all_max(scores.max()) if len(scores) else distributed.all_max(scores.new_full((), -1e30))
    kernel = (scores - highest).div_(epsilon).exp_()  # the constant cancels
    u, v = kernel.new_ones(kernel.shape[0]), kernel.new_ones(kernel.shape[1])
    even = distributed.all_sum(u.sum()) / len(v)  # rows of all workers for each prototype
    for _ in range(num_iterations):  # u and v alone change: each reads the matrix once
        v = even / distributed.all_sum(u @ kernel).clamp(min=1e-30)
        u = 1 / (kernel @ v).clamp(min=1e-30)
    return kernel.mul_(u[:, None]).mul_(v)


def usage_entropy(assignments: Float[Tensor, "batch prototypes"]) -> Float[Tensor, ""]:
    """The entropy of the prototypes' mean share over all workers: 1 if all are used alike, 0 if one takes all."""
    with torch.no_grad():
        share = distributed.all_sum(assignments.float().sum(0))
        share = share / share.sum()
        return torch.special.entr(share).sum() / math.log(len(share))
