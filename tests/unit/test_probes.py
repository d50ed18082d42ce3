"""kNN and the linear probe against slow transcriptions and an independent solver; LARS against its algorithm."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sslscale.evaluate import knn
from sslscale.evaluate.linear import STRENGTHS, linear_probe
from sslscale.train.lars import LARS


def blobs(count: int, classes: int = 5, dim: int = 12, noise: float = 1.2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, dim, generator=generator)
    labels = torch.arange(count) % classes
    return centres[labels] + noise * torch.randn(count, dim, generator=generator), labels


@pytest.mark.parametrize("k", [7, 500])
def test_knn_equals_its_literal_transcription(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = blobs(300)
    bank, queries = features[:240], features[240:]
    monkeypatch.setattr(knn, "_QUERIES", 16)
    monkeypatch.setattr(knn, "_BANK", 50)  # neighbours come from several pieces
    ours = knn.knn_classify(bank, labels[:240], queries, 5, k=k, temperature=0.1)
    for query, row in zip(queries.double(), ours, strict=True):
        found = sorted(
            (
                (float(query @ b / (query.norm() * b.norm())), int(y))
                for b, y in zip(bank.double(), labels, strict=False)
            ),
            reverse=True,
        )[:k]
        share = [sum(math.exp(s / 0.1) for s, y in found if y == c) for c in range(5)]
        np.testing.assert_allclose(row, np.array(share) / sum(share), rtol=1e-4, atol=1e-6)


def test_the_linear_probe_is_the_minimum_that_another_solver_finds() -> None:
    from sklearn.linear_model import LogisticRegression

    features, labels = blobs(600)
    probs, strength = linear_probe(features[:400], labels[:400], features[400:], 5)
    assert strength in STRENGTHS
    x = (features - features[:400].mean(0)) / features[:400].std(0)
    theirs = LogisticRegression(C=1 / (400 * strength), max_iter=5000, tol=1e-8).fit(x[:400], labels[:400])
    np.testing.assert_allclose(probs, theirs.predict_proba(x[400:]), atol=5e-3)
    assert (probs.argmax(1) == labels[400:]).float().mean() > 0.75


def test_features_that_never_change_are_no_error() -> None:
    features, labels = blobs(100)
    features[:, 3] = 7.0
    probs, _ = linear_probe(features[:80], labels[:80], features[80:], 5)
    assert bool(torch.isfinite(probs).all())


def test_lars_is_its_algorithm() -> None:
    torch.manual_seed(0)
    matrix, bias = torch.randn(4, 3).requires_grad_(), torch.randn(3).requires_grad_()
    groups = [{"params": [matrix], "weight_decay": 0.1}, {"params": [bias], "adapt": False}]
    optimizer = LARS(groups, 0.5, momentum=0.9, trust=0.01)
    w, b = matrix.detach().double().clone(), bias.detach().double().clone()
    v, u = torch.zeros_like(w), torch.zeros_like(b)
    for _ in range(5):
        g, h = torch.randn(4, 3), torch.randn(3)
        matrix.grad, bias.grad = g.clone(), h.clone()
        optimizer.step()
        gradient = g.double() + 0.1 * w
        local = 0.01 * w.norm() / gradient.norm()
        v = 0.9 * v + 0.5 * local * gradient
        w = w - v
        u = 0.9 * u + 0.5 * h.double()
        b = b - u
    torch.testing.assert_close(matrix.detach().double(), w, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(bias.detach().double(), b, rtol=1e-5, atol=1e-6)
