"""Weighted k-nearest-neighbour classification of frozen features."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from sslscale.shapes import Float, Int

_QUERIES, _BANK = 1024, 1 << 16  # rows compared at once: never all with all


@torch.inference_mode()
def nearest(
    bank: Float[torch.Tensor, "samples dim"], queries: Float[torch.Tensor, "queries dim"], k: int
) -> tuple[Float[torch.Tensor, "queries k"], Int[torch.Tensor, "queries k"]]:
    """Cosines and places of the k most similar rows of the bank, the nearest first; k is at most the bank's length."""
    bank, queries = F.normalize(bank.float(), dim=1), F.normalize(queries.float(), dim=1)
    k = min(k, len(bank))
    cosines = torch.empty(len(queries), k, device=queries.device)
    found = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    for start in range(0, len(queries), _QUERIES):
        part = queries[start : start + _QUERIES]
        best = torch.full((len(part), 0), -2.0, device=part.device)
        place = torch.zeros(len(part), 0, dtype=torch.int64, device=part.device)
        for first in range(0, len(bank), _BANK):
            similar = part @ bank[first : first + _BANK].T
            top = similar.topk(min(k, similar.shape[1]), dim=1)
            joined, places = torch.cat([best, top.values], 1), torch.cat([place, top.indices + first], 1)
            best, order = joined.topk(min(k, joined.shape[1]), dim=1)
            place = places.gather(1, order)
        cosines[start : start + len(part)], found[start : start + len(part)] = best, place
    return cosines, found


@torch.inference_mode()
def knn_classify(
    bank: Float[torch.Tensor, "samples dim"],
    labels: Int[torch.Tensor, " samples"],
    queries: Float[torch.Tensor, "queries dim"],
    num_classes: int,
    *,
    k: int = 200,
    temperature: float = 0.07,
) -> Float[torch.Tensor, "queries classes"]:
    """Class shares by the k most similar samples, each weighted exp(cosine / temperature) (Wu et al. 2018,
    arXiv:1805.01978, section 3.4). k is at most the number of samples. Rows sum to 1."""
    cosines, place = nearest(bank, queries, k)
    # relative to the nearest: the shares stay the same, and no exponent overflows
    weight = torch.exp((cosines - cosines[:, :1]) / temperature)
    shares = torch.zeros(len(queries), num_classes, device=queries.device).scatter_add_(1, labels[place], weight)
    return shares / shares.sum(1, keepdim=True)
