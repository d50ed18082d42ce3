"""A number that shows whether a representation collapses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from sslscale import distributed

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@torch.no_grad()
def embedding_std(z: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """The mean standard deviation, over the batches of all workers, of embeddings scaled to length 1, times sqrt(dim).

    1 where they spread evenly, 0 where they are one point (SimSiam, arXiv:2011.10566, section 4.1).
    """
    unit = F.normalize(z.detach().float(), dim=1)
    moments = torch.stack([unit.sum(0), unit.square().sum(0)])
    mean, square = distributed.all_sum(moments) / (len(z) * distributed.world_size())
    return (square - mean.square()).clamp(min=0).sqrt().mean() * z.shape[1] ** 0.5
