"""Losses of methods that compare two views, against loops in float64, closed forms, and lightly's where it is there."""

from __future__ import annotations

import math

import pytest
import torch

from sslscale.methods.barlow_twins.method import barlow_twins_loss
from sslscale.methods.byol.method import byol_loss
from sslscale.methods.simsiam import SimSiam
from sslscale.methods.simsiam.method import SimSiamMethod, negative_cosine
from sslscale.methods.vicreg.method import vicreg_terms
from sslscale.nn.collapse import effective_rank, embedding_std
from sslscale.settings.model import ModelConfig
from sslscale.settings.train import OptimConfig
from sslscale.train.optim import build_optimizer

Rows = list[list[float]]


def views(seed: int = 0, count: int = 9, dim: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(count, dim, generator=generator) * 2 + 0.5
    return first, first + torch.randn(count, dim, generator=generator)


def column(rows: Rows, j: int) -> list[float]:
    return [row[j] for row in rows]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_barlow_twins_is_equations_1_and_2() -> None:
    first, second = views()
    a, b = first.double().tolist(), second.double().tolist()

    def scaled(rows: Rows, j: int) -> list[float]:
        values = column(rows, j)
        variance = mean([(v - mean(values)) ** 2 for v in values])
        return [(v - mean(values)) / math.sqrt(variance + 1e-5) for v in values]

    loss = 0.0
    for i in range(5):
        for j in range(5):
            c = mean([x * y for x, y in zip(scaled(a, i), scaled(b, j), strict=True)])
            loss += (1 - c) ** 2 if i == j else 0.0051 * c * c
    assert float(barlow_twins_loss(first, second, 0.0051)) == pytest.approx(loss, rel=1e-5)


def test_barlow_twins_closed_forms() -> None:
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])  # uncorrelated, variance 1
    assert float(barlow_twins_loss(signs, signs, 1.0)) == pytest.approx(0, abs=1e-8)
    assert float(barlow_twins_loss(signs, -signs, 1.0)) == pytest.approx(8, rel=1e-4)
    assert float(barlow_twins_loss(signs[:, :1].expand(4, 2), signs, 1.0)) == pytest.approx(1 + 1, rel=1e-4)
    assert float(barlow_twins_loss(torch.ones(4, 2), torch.ones(4, 2), 1.0)) == pytest.approx(2)  # collapsed


def test_vicreg_is_equations_1_to_6() -> None:
    first, second = views()
    a, b = first.double().tolist(), second.double().tolist()
    n, d = 9, 5
    invariance = mean([(x - y) ** 2 for u, v in zip(a, b, strict=True) for x, y in zip(u, v, strict=True)])
    variance = covariance = 0.0
    for rows in (a, b):
        means = [mean(column(rows, j)) for j in range(d)]

        def cov(i: int, j: int, rows: Rows = rows, means: list[float] = means) -> float:
            return sum((row[i] - means[i]) * (row[j] - means[j]) for row in rows) / (n - 1)

        variance += mean([max(0.0, 1 - math.sqrt(cov(j, j) + 1e-4)) for j in range(d)]) / 2
        covariance += sum(cov(i, j) ** 2 for i in range(d) for j in range(d) if i != j) / d
    ours = vicreg_terms(first, second)
    assert [float(v) for v in ours] == pytest.approx([invariance, variance, covariance], rel=1e-5, abs=1e-7)
    small = vicreg_terms(first / 10, second / 10)
    assert float(small[1]) > 0.5  # the hinge is open there
    same = vicreg_terms(torch.ones(6, 3), torch.ones(6, 3))  # collapsed: no difference, variance sqrt(eps)
    assert [float(v) for v in same] == pytest.approx([0, 1 - 0.01, 0], abs=1e-6)


def test_simsiam_and_byol_are_their_equations() -> None:
    first, second = views()
    cosines = []
    for u, v in zip(first.double().tolist(), second.double().tolist(), strict=True):
        cosines.append(sum(x * y for x, y in zip(u, v, strict=True)) / (math.hypot(*u) * math.hypot(*v)))
    assert float(negative_cosine(first, second)) == pytest.approx(-mean(cosines), rel=1e-5)
    assert float(byol_loss(first, second)) == pytest.approx(mean([2 - 2 * c for c in cosines]), rel=1e-5)
    assert float(byol_loss(first, 3 * first)) == pytest.approx(0, abs=1e-6)
    assert float(byol_loss(first, -first)) == pytest.approx(4)


def test_the_losses_are_lightlys() -> None:
    losses = pytest.importorskip("lightly.loss")
    first, second = views(count=32, dim=16)
    theirs = losses.BarlowTwinsLoss(lambda_param=0.0051)(first, second)
    torch.testing.assert_close(barlow_twins_loss(first, second, 0.0051), theirs, rtol=1e-4, atol=1e-5)
    theirs = losses.VICRegLoss()(first, second)
    invariance, variance, covariance = vicreg_terms(first, second)
    torch.testing.assert_close(25 * invariance + 25 * variance + covariance, theirs, rtol=1e-5, atol=1e-5)
    theirs = losses.NegativeCosineSimilarity()(first, second)
    torch.testing.assert_close(negative_cosine(first, second), theirs, rtol=1e-5, atol=1e-6)


MODEL = ModelConfig(name="wrn_10_0.5")


def test_simsiams_predictor_keeps_its_rate() -> None:
    method = SimSiamMethod(SimSiam(projection=16, hidden=8), MODEL)
    groups = build_optimizer(method, OptimConfig(lr=0.1)).param_groups
    constant = {id(p) for group in groups if not group["scheduled"] for p in group["params"]}
    assert constant == {id(p) for p in method.predictor.parameters()}


def test_embedding_std_of_an_even_spread_and_of_a_point() -> None:
    torch.manual_seed(0)
    assert float(embedding_std(torch.randn(4000, 32))) == pytest.approx(1, abs=0.02)
    assert float(embedding_std(torch.ones(50, 32))) == pytest.approx(0, abs=1e-3)


def test_effective_rank_counts_dimensions() -> None:
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(60, 8)).Q
    assert float(effective_rank(basis)) == pytest.approx(8, rel=1e-5)
    assert float(effective_rank(basis[:, :3] @ torch.randn(3, 100))) <= 3.001
    assert float(effective_rank(torch.ones(50, 32))) == pytest.approx(1, abs=1e-4)
    p = [3 / 6, 2 / 6, 1 / 6]  # RankMe, eq. 1
    assert float(effective_rank(torch.diag(torch.tensor([3.0, 2.0, 1.0])))) == pytest.approx(
        math.exp(-sum(v * math.log(v) for v in p)), rel=1e-5
    )
