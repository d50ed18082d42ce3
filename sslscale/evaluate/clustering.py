"""Clustering: how far classes show without a label."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sslscale.shapes import Float, Int
from sslscale.train import kmeans


def cluster_agreement(
    features: Float[Tensor, "samples dim"], labels: Int[Tensor, " samples"], num_classes: int, *, seed: int = 0
) -> dict[str, float]:
    """k-means of the features (scaled to length 1, as many clusters as classes) against the classes.

    Normalised mutual information (arithmetic mean), adjusted Rand index, and purity: the share of images that belong
    to the most frequent class of their cluster.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    rows, truth = features.float().cpu().numpy(), labels.cpu().numpy()
    centroids = kmeans.fit(rows, min(num_classes, len(rows)), normalize=True, seed=seed)
    found = kmeans.assign(rows, centroids, normalize=True, device=torch.device("cpu"))
    table = np.zeros((len(centroids), num_classes), np.int64)
    np.add.at(table, (found, truth), 1)
    return {
        "nmi": float(normalized_mutual_info_score(truth, found)),
        "ari": float(adjusted_rand_score(truth, found)),
        "purity": float(table.max(1).sum() / len(truth)),
    }
