"""Retrieval: which images a network holds to be alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslscale.evaluate.knn import nearest
from sslscale.shapes import Float, Int

RANKS = (1, 5, 10)


def retrieve(
    features: Float[Tensor, "samples dim"], labels: Int[Tensor, " samples"], *, ranks: tuple[int, ...] = RANKS
) -> tuple[dict[str, Any], Int[Tensor, "samples k"]]:
    """Each image asks for its nearest among all others, by cosine.

    Recall at k: the share of images with one of their class among the k nearest (Jegou et al. 2011's recall at R, as
    metric learning uses it); precision at k: the share of the k that are of its class. Also returns the k nearest.
    """
    most = min(max(ranks), len(features) - 1)
    _, place = nearest(features, features, most + 1)
    itself = place == torch.arange(len(place), device=place.device)[:, None]
    missed = ~itself.any(1)  # more equals than were asked for: the last one goes
    itself[missed, -1] = True
    place = place[~itself].view(len(place), most)
    right = labels[place] == labels[:, None]
    found: dict[str, Any] = {}
    for rank in ranks:
        found[f"recall_at_{rank}"] = right[:, :rank].any(1).float().mean().item()
        found[f"precision_at_{rank}"] = right[:, :rank].float().mean().item()
    return found, place
