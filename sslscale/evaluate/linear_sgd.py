"""A linear classifier on frozen features, by SGD: many learning rates side by side in one pass."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale.shapes import Float, Int

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # each times batch / 256
_BATCH, _MOMENTUM, _HELD_OUT = 1024, 0.9, 0.1


def sgd_probe(
    features: Float[Tensor, "samples dim"],
    labels: Int[Tensor, " samples"],
    queries: Float[Tensor, "queries dim"],
    num_classes: int,
    *,
    epochs: int = 100,
    seed: int = 0,
) -> tuple[Float[Tensor, "queries classes"], float]:
    """Class probabilities of the queries, and the learning rate taken.

    The protocol of DINO (arXiv:2104.14294, appendix F.2): batches of 1,024, momentum .9, no weight decay, 100 epochs,
    a cosine to 0, learning rate * batch / 256 swept. Features are scaled to mean 0 and variance 1, as MAE's probe does
    (arXiv:2111.06377, appendix A.1), and were made once, without augmentation. The rate is the best on a tenth of the
    samples, held out; the classifier is then trained on all.
    """
    mean, scale = features.mean(0), features.std(0).clamp(min=1e-6)
    x, q = (features - mean) / scale, (queries - mean) / scale
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
    held = max(int(_HELD_OUT * len(x)), 1)
    out, rest = order[:held], order[held:]
    weights = train_heads(x[rest], labels[rest], num_classes, RATES, epochs, seed)
    logits = head_logits(x[out], weights)
    right = (logits.argmax(2) == labels[out]).float().mean(1).tolist()
    losses = [F.cross_entropy(head, labels[out]).item() for head in logits]
    rate = max(zip(right, [-loss for loss in losses], RATES, strict=True))[2]  # of equals the better calibrated
    (probs,) = head_logits(q, train_heads(x, labels, num_classes, (rate,), epochs, seed)).softmax(2)
    return probs, rate


def head_logits(
    x: Float[Tensor, "samples dim"], weights: Float[Tensor, "dim_and_bias heads classes"]
) -> Float[Tensor, "heads samples classes"]:
    """Logits of every head."""
    dim, heads, classes = weights.shape
    return (x @ weights[:-1].reshape(dim - 1, -1) + weights[-1].reshape(-1)).view(-1, heads, classes).transpose(0, 1)


def train_heads(
    x: Float[Tensor, "samples dim"],
    labels: Int[Tensor, " samples"],
    num_classes: int,
    rates: tuple[float, ...],
    epochs: int,
    seed: int,
) -> Float[Tensor, "dim_and_bias heads classes"]:
    """Train one linear classifier a learning rate, all on the same batches; the last row is the bias.

    The gradients of softmax and cross-entropy are written out: no head sees another's.
    """
    batch = min(_BATCH, len(x))
    steps_an_epoch = len(x) // batch
    weights = torch.zeros(x.shape[1] + 1, len(rates), num_classes, device=x.device)
    velocity = torch.zeros_like(weights)
    peak = torch.tensor(rates, device=x.device).view(1, -1, 1) * (batch / 256)
    generator = torch.Generator().manual_seed(seed + 1)
    total, order = max(epochs * steps_an_epoch, 1), torch.empty(0)
    for step in range(total):
        if step % steps_an_epoch == 0:
            order = torch.randperm(len(x), generator=generator).to(x.device)
        place = step % steps_an_epoch * batch
        chosen = order[place : place + batch]
        rows = x[chosen]
        error = head_logits(rows, weights).softmax(2) - F.one_hot(labels[chosen], num_classes)
        error = error.transpose(0, 1).reshape(batch, -1) / batch
        gradient = torch.cat([rows.T @ error, error.sum(0, keepdim=True)]).view_as(weights)
        velocity.mul_(_MOMENTUM).add_(gradient)
        weights -= peak * (0.5 * (1 + math.cos(math.pi * step / total))) * velocity
    return weights
