"""Spherical k-means over rows that all workers share out: centroids of length 1, compared by their cosine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from sslscale import distributed
from sslscale.shapes import Float, Int

Rows = Callable[[], Iterator[Float[torch.Tensor, "_ dim"]]]  # this worker's rows, chunk by chunk, as often as asked


@torch.no_grad()
def spherical_kmeans(
    rows: Rows, centroids: Float[torch.Tensor, "k dim"], iterations: int
) -> tuple[Float[torch.Tensor, "k dim"], Int[torch.Tensor, " n"]]:
    """The centroids after some iterations, the same on every worker, and the nearest one of each of this worker's rows.

    A centroid without a row stays where it is.
    """
    for _ in range(iterations):
        sums, counts = torch.zeros_like(centroids), torch.zeros_like(centroids[:, 0])
        for chunk in rows():
            nearest = _nearest(chunk, centroids)
            sums.index_add_(0, nearest, chunk)
            counts.index_add_(0, nearest, torch.ones_like(chunk[:, 0]))
        sums, counts = distributed.all_sum(sums), distributed.all_sum(counts)
        # of length 1: the sum and the mean point the same way
        centroids = torch.where(counts[:, None] > 0, F.normalize(sums, dim=1), centroids)
    found = [_nearest(chunk, centroids) for chunk in rows()]
    return centroids, torch.cat(found) if found else torch.zeros(0, dtype=torch.int64, device=centroids.device)


def _nearest(rows: Float[torch.Tensor, "n dim"], centroids: Float[torch.Tensor, "k dim"]) -> Int[torch.Tensor, " n"]:
    return (rows @ centroids.T).argmax(1)
