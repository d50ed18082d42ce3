"""A linear classifier on frozen features, by L-BFGS: the convex problem solved, no learning rate to tune."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale.shapes import Float, Int

STRENGTHS = tuple(10.0**power for power in range(-6, 1))  # of the penalty, tried on held-out samples
_HELD_OUT = 0.1
_ITERATIONS = 200


def linear_probe(
    features: Float[Tensor, "samples dim"],
    labels: Int[Tensor, " samples"],
    queries: Float[Tensor, "queries dim"],
    num_classes: int,
    *,
    seed: int = 0,
) -> tuple[Float[Tensor, "queries classes"], float]:
    """Class probabilities of the queries by multinomial logistic regression, and the strength of the penalty taken.

    Minimises mean cross-entropy + strength / 2 * |W|^2 on features scaled to mean 0 and variance 1 (by the training
    samples); the bias is free. The strength is the best of STRENGTHS on a tenth of the samples, held out at random; the
    classifier is then fitted to all.
    """
    mean, scale = features.mean(0), features.std(0).clamp(min=1e-6)
    x, q = (features - mean) / scale, (queries - mean) / scale
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
    held = max(int(_HELD_OUT * len(x)), 1)
    out, rest = order[:held], order[held:]
    best, strength, start = (-1.0, 0.0), STRENGTHS[0], None
    for candidate in reversed(STRENGTHS):  # from the strongest: each solution is near the next
        start = _fit(x[rest], labels[rest], num_classes, candidate, start)
        logits = _logits(x[out], start)
        right = (logits.argmax(1) == labels[out]).float().mean().item()
        found = (right, -F.cross_entropy(logits, labels[out]).item())  # of equals the better calibrated
        if found > best:
            best, strength = found, candidate
    return _logits(q, _fit(x, labels, num_classes, strength, None)).softmax(1), strength


def _logits(x: Tensor, weights: Float[Tensor, "dim_and_bias classes"]) -> Float[Tensor, "samples classes"]:
    return x @ weights[:-1] + weights[-1]


def _fit(x: Tensor, labels: Tensor, num_classes: int, strength: float, start: Tensor | None) -> Tensor:
    weights = torch.zeros(x.shape[1] + 1, num_classes, device=x.device) if start is None else start.clone()
    weights.requires_grad_()
    solver = torch.optim.LBFGS([weights], max_iter=_ITERATIONS, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(_logits(x, weights), labels) + strength / 2 * weights[:-1].square().sum()
        value.backward()
        return value

    solver.step(loss)  # pyright: ignore[reportArgumentType]
    return weights.detach()
