"""Active learning's strategies against literal transcriptions in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sslscale.evaluate import acquisition
from sslscale.evaluate.acquisition import badge, k_centre, typiclust, uncertainty


def test_uncertainty_is_entropy_margin_and_confidence() -> None:
    torch.manual_seed(0)
    logits = 2 * torch.randn(20, 5)
    for n, row in enumerate(logits.double()):
        p = sorted((row.exp() / row.exp().sum()).tolist(), reverse=True)
        wanted = {
            "entropy": -sum(x * math.log(x) for x in p),
            "margin": -(p[0] - p[1]),
            "least_confidence": 1 - p[0],
        }
        for by, value in wanted.items():
            assert float(uncertainty(logits, by)[n]) == pytest.approx(value, abs=1e-5)
    certain = torch.tensor([[200.0, 0.0], [0.0, 0.0]])
    assert uncertainty(certain, "entropy").tolist() == pytest.approx([0.0, math.log(2)])


def test_k_centre_takes_the_farthest_again_and_again() -> None:
    torch.manual_seed(0)
    features, labeled = torch.randn(40, 3), torch.randn(4, 3)
    found = k_centre(features, labeled, 6, np.random.default_rng(0)).tolist()
    covered = [row.double() for row in labeled]
    for chosen in found:
        least = [min(float((x.double() - y).norm()) for y in covered) for x in features]
        assert least[chosen] == pytest.approx(max(least), abs=1e-5)
        covered.append(features[chosen].double())
    alone = k_centre(features, torch.zeros(0, 3), 5, np.random.default_rng(0)).tolist()
    assert len(set(alone)) == 5
    same = k_centre(torch.ones(4, 3), torch.ones(1, 3), 4, np.random.default_rng(0)).tolist()
    assert sorted(same) == [0, 1, 2, 3]  # equal images are not taken twice


def test_badge_samples_by_the_distance_of_gradients() -> None:
    torch.manual_seed(0)
    logits, features = torch.randn(8, 3), torch.randn(8, 4)
    gradients = []
    for row, h in zip(logits.double(), features.double(), strict=True):
        p = row.softmax(0)
        target = torch.zeros(3, dtype=torch.float64)
        target[p.argmax()] = 1
        gradients.append(torch.outer(target - p, h).flatten())
    norms = [float(g.norm()) for g in gradients]
    first = norms.index(max(norms))
    counts, trials = np.zeros(8), 4000
    for seed in range(trials):
        found = badge(logits, features, 2, np.random.default_rng(seed)).tolist()
        assert found[0] == first
        counts[found[1]] += 1
    weights = np.array([float((g - gradients[first]).square().sum()) for g in gradients])
    np.testing.assert_allclose(counts / trials, weights / weights.sum(), atol=0.03)
    assert len(set(badge(logits, features, 8, np.random.default_rng(0)).tolist())) == 8
    same = badge(torch.ones(5, 3), torch.ones(5, 4), 5, np.random.default_rng(0)).tolist()
    assert sorted(same) == [0, 1, 2, 3, 4]


def test_typical_images_of_clusters_without_a_label_come_first() -> None:
    rng = np.random.default_rng(0)
    directions = np.eye(4)
    parts = [directions[c] + rng.normal(0, 0.05, (count, 4)) for c, count in enumerate((40, 30, 20, 3))]
    features = torch.from_numpy(np.concatenate(parts)).float()
    labeled = torch.from_numpy(directions[:1]).float()
    found = typiclust(features, labeled, 3, seed=0).tolist()
    cluster = np.repeat(np.arange(4), (40, 30, 20, 3))
    # as many clusters as labels will be, four; the small one is passed over, the large one has a label
    assert [int(cluster[n]) for n in found] == [1, 2, 0]
    unit = torch.nn.functional.normalize(features, dim=1).double()
    own = np.flatnonzero(cluster == 1)
    mean = {int(n): sum(sorted(float((unit[n] - unit[m]).norm()) for m in own)[1:16]) / 15 for n in own}
    assert found[0] == min(mean, key=lambda n: mean[n])
    every = typiclust(features[:6], labeled, 6, seed=0).tolist()
    assert sorted(every) == list(range(6))


def test_many_clusters_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acquisition, "MOST_CLUSTERS", 60)
    torch.manual_seed(0)
    found = typiclust(torch.randn(200, 5), torch.randn(3, 5), 90, seed=0).tolist()
    assert len(set(found)) == 90
