"""Active learning: the order in which unlabelled images are worth a label."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale.shapes import Float, Int

NEIGHBOURS = 20  # that TypiClust measures density by
MOST_CLUSTERS, SMALLEST = 500, 5  # TypiClust's: clusters, and images of a cluster that is passed over


def uncertainty(logits: Float[Tensor, "n classes"], by: str) -> Float[Tensor, " n"]:
    """How unsure a classifier is of each image, more for less sure: `entropy`, `margin` or `least_confidence`."""
    probs = logits.float().softmax(1)
    if by == "entropy":
        return -(probs * probs.clamp(min=1e-30).log()).sum(1)
    top = probs.topk(min(2, probs.shape[1]), 1).values
    return -(top[:, 0] - top[:, -1]) if by == "margin" else 1 - top[:, 0]


def k_centre(
    features: Float[Tensor, "n dim"], labeled: Float[Tensor, "m dim"], number: int, rng: np.random.Generator
) -> Int[Tensor, " number"]:
    """Again and again the image that is farthest from the nearest labelled or chosen one; memory for one distance an
    image."""
    least = torch.full((len(features),), torch.inf, device=features.device)
    for part in labeled.split(256) if len(labeled) else ():
        least = torch.minimum(least, torch.cdist(features, part).min(1).values)
    chosen = []
    for _ in range(number):
        best = least.argmax() if torch.isfinite(least).all() else torch.tensor(rng.integers(len(features)))
        chosen.append(int(best))
        least = torch.minimum(least, (features - features[best]).square().sum(1).sqrt())
        least[best] = -1.0
    return torch.tensor(chosen)


def badge(
    logits: Float[Tensor, "n classes"], features: Float[Tensor, "n dim"], number: int, rng: np.random.Generator
) -> Int[Tensor, " number"]:
    """k-means++ on the gradients (onehot(argmax p) - p) x features: first the longest, then by squared distance.

    The outer products are never formed: |g - g'|^2 = |a|^2 |h|^2 + |a'|^2 |h'|^2 - 2 (a a') (h h').
    """
    probs = logits.float().softmax(1)
    a = F.one_hot(probs.argmax(1), probs.shape[1]) - probs
    h = features.float()
    norm = a.square().sum(1) * h.square().sum(1)
    chosen = [int(norm.argmax())]
    least = torch.full_like(norm, torch.inf)
    while len(chosen) < number:
        last = chosen[-1]
        least = torch.minimum(least, (norm + norm[last] - 2 * (a @ a[last]) * (h @ h[last])).clamp(min=0))
        least[last] = 0.0
        weight = least.double().cpu().numpy()
        weight[chosen] = 0.0
        if weight.sum() <= 0:  # all others are equal to one that is chosen
            weight = np.ones(len(weight))
            weight[chosen] = 0.0
        chosen.append(int(rng.choice(len(weight), p=weight / weight.sum())))
    return torch.tensor(chosen)


def typiclust(
    features: Float[Tensor, "n dim"], labeled: Float[Tensor, "m dim"], number: int, seed: int
) -> Int[Tensor, " number"]:
    """Of clusters with the fewest labels, large ones first, the image with the smallest mean distance to its nearest
    neighbours in the cluster. There are as many clusters as labels will be, MOST_CLUSTERS at most."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    every = F.normalize(torch.cat([labeled, features]).float(), dim=1)
    count = min(len(labeled) + number, MOST_CLUSTERS, len(every))
    options: dict[str, Any] = {"n_init": 1, "random_state": seed}
    algorithm = KMeans(count, **options) if count <= 50 else MiniBatchKMeans(count, batch_size=5000, **options)
    cluster = algorithm.fit_predict(every.numpy())
    known = np.zeros(count, int)
    np.add.at(known, cluster[: len(labeled)], 1)
    left = {c: np.flatnonzero(cluster[len(labeled) :] == c) for c in range(count)}
    size = np.bincount(cluster, minlength=count)
    chosen: list[int] = []
    while len(chosen) < number:
        having = [c for c in range(count) if len(left[c])]
        large = [c for c in having if size[c] > SMALLEST] or having
        best = min(large, key=lambda c: (known[c], -size[c], c))
        own = left[best]
        place = own[int(_typicality(every[len(labeled) + own]).argmax())]
        chosen.append(int(place))
        left[best] = own[own != place]
        known[best] += 1
    return torch.tensor(chosen)


def _typicality(x: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
    """1 / the mean distance to the nearest NEIGHBOURS, or half of the images if they are fewer."""
    near = max(min(NEIGHBOURS, len(x) // 2), 1)
    if len(x) == 1:
        return torch.ones(1)
    distances = torch.cdist(x, x).topk(near + 1, 1, largest=False).values[:, 1:]
    return 1 / distances.mean(1).clamp(min=1e-12)


def choose(
    by: str,
    number: int,
    *,
    features: Float[Tensor, "n dim"],
    labeled: Float[Tensor, "m dim"],
    logits: Float[Tensor, "n classes"] | None,
    seed: int,
) -> Int[Tensor, " number"]:
    """The rows of `number` images by a strategy that compares images with one another."""
    rng = np.random.default_rng([seed, 0xAC7])
    if by == "coreset":
        return k_centre(features, labeled, number, rng)
    if by == "typiclust":
        return typiclust(features, labeled, number, seed)
    assert by == "badge" and logits is not None
    return badge(logits, features, number, rng)
