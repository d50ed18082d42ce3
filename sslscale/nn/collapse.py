"""Numbers that show whether a representation collapses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale import distributed
from sslscale.shapes import Float

_ROWS = 512  # that the effective rank looks at, of all workers
_FLAT, _THIN = 0.05, 1.5


@torch.no_grad()
def statistics(z: Float[Tensor, "batch dim"]) -> dict[str, float]:
    """embedding_std and effective_rank of the embeddings of all workers' images."""
    rows = distributed.gather(z.detach().float())
    return {
        "embedding_std": float(embedding_std(rows)),
        "effective_rank": float(effective_rank(rows[:: max(-(-len(rows) // _ROWS), 1)])),
    }


def embedding_std(z: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """The mean standard deviation of embeddings scaled to length 1, times sqrt(dim).

    1 where they spread evenly, 0 where they are one point (SimSiam, arXiv:2011.10566, section 4.1).
    """
    return F.normalize(z, dim=1).std(0, unbiased=False).mean() * z.shape[1] ** 0.5


def effective_rank(z: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """exp(-sum_k p_k log p_k), p the singular values as shares of their sum (RankMe, arXiv:2210.02885, eq. 1)."""
    z = z.double()
    squares = torch.linalg.eigvalsh(z @ z.T if len(z) < z.shape[1] else z.T @ z).clamp(min=0)
    values = squares.sqrt()
    share = values / values.sum().clamp(min=1e-30)
    return torch.special.entr(share).sum().exp()


def has_collapsed(found: Mapping[str, float]) -> bool:
    """Whether the images have all but one embedding, or lie on one line."""
    return found["embedding_std"] < _FLAT or found["effective_rank"] < _THIN
