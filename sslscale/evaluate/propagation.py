"""Label propagation from class names to images (ReCLIP, Hu et al. 2024, arXiv:2308.03793, section 3.2)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale.evaluate.knn import nearest
from sslscale.shapes import Float, Int


def class_directions(classes: Float[Tensor, "classes dim"], kept: int) -> Float[Tensor, "dim dim"]:
    """The projection onto the span of the classes' vectors without its first principal direction, which they share; the
    next `kept` - 1 directions stay. Vectors have length 1; singular values are of the vectors as they are, uncentred.
    """
    left, _, _ = torch.linalg.svd(classes.float().T, full_matrices=False)
    left = left[:, 1:kept]
    return left @ left.T


def propagate(
    points: Float[Tensor, "points dim"],
    num_classes: int,
    *,
    neighbors: int,
    alpha: float,
    iterations: int = 20,
    tolerance: float = 1e-6,
) -> tuple[Int[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """The class of each point, and its confidence, 1 - entropy / ln K, from 0 to 1.

    The first `num_classes` points are the classes; labels spread from them over the graph of each point's nearest
    neighbours. With A = (cosine + 1) / 2 of these, W = (A + A^T) / 2 and N = D^-1/2 W D^-1/2, the scores of class c
    solve (I - alpha N) f = e_c, by conjugate gradients. The graph is sparse: memory grows with points * (neighbors +
    classes).
    """
    from scipy import sparse
    from scipy.sparse.linalg import cg

    points = F.normalize(points.float(), dim=1)
    count = len(points)
    most = min(neighbors, count - 1)
    cosines, place = nearest(points, points, most + 1)
    itself = place == torch.arange(count, device=place.device)[:, None]
    itself[~itself.any(1), -1] = True  # more equals than were asked for: the last one goes
    weight = ((cosines[~itself] + 1) / 2).cpu().numpy()
    columns = place[~itself].cpu().numpy()
    rows = np.repeat(np.arange(count), most)
    graph = sparse.csr_matrix((weight, (rows, columns)), shape=(count, count))
    graph = (graph + graph.T) / 2
    degree = np.asarray(graph.sum(1)).ravel() ** -0.5
    scale = sparse.diags(degree)
    system = sparse.identity(count, format="csr") - alpha * (scale @ graph @ scale)
    scores = np.empty((count, num_classes), np.float32)
    for number in range(num_classes):
        seed = np.zeros(count)
        seed[number] = 1
        scores[:, number] = cg(system, seed, rtol=tolerance, maxiter=iterations)[0]
    shares = np.maximum(scores, 0)
    shares /= np.maximum(shares.sum(1, keepdims=True), 1e-30)
    entropy = -(shares * np.log(np.maximum(shares, 1e-30))).sum(1)
    return scores.argmax(1), 1 - entropy / np.log(num_classes)


def centroids(
    features: Float[Tensor, "points dim"], label: Int[Tensor, " points"], before: Float[Tensor, "classes dim"]
) -> Float[Tensor, "classes dim"]:
    """The mean of each class's points, of length 1; a class that has lost all of them keeps the vector it had."""
    sums = torch.zeros_like(before).index_add_(0, label, features)
    held = torch.zeros(len(before), dtype=torch.bool, device=label.device)
    held[label] = True
    return torch.where(held[:, None], F.normalize(sums, dim=1), before)
