"""Losses on confident pseudo-labels, against slow, literal transcriptions of the papers' formulas, in float64."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from sslscale.data.batch import Batch
from sslscale.methods.dash import Dash
from sslscale.methods.dash import method as dash
from sslscale.methods.fixmatch import FixMatch
from sslscale.methods.flexmatch import FlexMatch
from sslscale.methods.flexmatch import method as flexmatch
from sslscale.methods.freematch import FreeMatch
from sslscale.methods.freematch import method as freematch
from sslscale.methods.softmatch import SoftMatch
from sslscale.methods.softmatch import method as softmatch
from sslscale.methods.uda import UDA
from sslscale.methods.uda import method as uda
from sslscale.nn.learned_augment import LearnedAugment
from sslscale.settings.method import SemiSupervised
from tests.numerics.literal import (
    IMAGES,
    UNLABELED,
    K,
    batches,
    entropy,
    hot,
    largest,
    made,
    rows,
    run,
    softmax,
    supervised,
)


def test_uda() -> None:
    method = made(UDA(unlabeled_ratio=3, temperature=0.4, threshold=0.8, tsa="exp"))
    batch = batches(2, scale=2.0)
    bound = math.exp((0.9 - 1) * 5) * (1 - 1 / K) + 1 / K
    kept = []
    for z, y in zip(rows(batch["labeled"].views[0]), batch["labeled"].label.tolist(), strict=True):  # type: ignore[union-attr]
        if softmax(z)[y] <= bound:
            kept.append(entropy(hot(y), z))
    total = 0.0
    for weak, strong in zip(*(rows(v) for v in batch["unlabeled"].views), strict=True):
        if max(softmax(weak)) >= 0.8:
            target = softmax(weak, 0.4)
            total += sum(t * math.log(t / p) for t, p in zip(target, softmax(strong), strict=True))
    assert len(kept) > 0
    loss = run(method, batch, 0.9).total
    assert float(loss) == pytest.approx(sum(kept) / len(kept) + total / UNLABELED, rel=1e-5)
    assert uda.annealing_bound("log", 1.0, 10) == pytest.approx((1 - math.exp(-5)) * 0.9 + 0.1)
    assert uda.annealing_bound("linear", 0.0, 10) == pytest.approx(0.1)
    assert uda.annealing_bound("none", 0.0, 10) == 1.0


def test_fixmatch() -> None:
    method = made(FixMatch(unlabeled_ratio=3, threshold=0.8))
    batch = batches(2)
    total, kept = 0.0, []
    for weak, strong in zip(*(rows(v) for v in batch["unlabeled"].views), strict=True):
        p = softmax(weak)
        kept.append(float(max(p) >= 0.8))
        total += kept[-1] * entropy(hot(largest(p)), strong)
    assert 0 < sum(kept) < UNLABELED
    losses = run(method, batch)
    assert float(losses.total) == pytest.approx(supervised(batch) + total / UNLABELED, rel=1e-5)
    assert losses.pseudo_labels is not None and losses.pseudo_labels.weight.tolist() == kept
    assert losses.pseudo_labels.label.tolist() == [largest(softmax(z)) for z in rows(batch["unlabeled"].views[0])]


@pytest.mark.parametrize("recipe", [FixMatch(), UDA(), FlexMatch(), FreeMatch(), SoftMatch(), Dash(warmup=0.1)])
def test_no_gradient_reaches_the_weak_view(recipe: SemiSupervised) -> None:
    batch = batches(2)
    weak = batch["unlabeled"].views[0].clone().requires_grad_()
    unlabeled = dataclasses.replace(batch["unlabeled"], views=(weak, batch["unlabeled"].views[1]))
    strong = unlabeled.views[1].clone().requires_grad_()
    unlabeled = dataclasses.replace(unlabeled, views=(weak, strong))
    run(made(recipe), {**batch, "unlabeled": unlabeled}).total.backward()
    assert weak.grad is None or not weak.grad.any()
    assert strong.grad is not None


def test_ctaugment_learns_which_magnitudes_keep_the_class() -> None:
    """A probe that is known well raises the rates of its bins, one that is not lowers them; strong views are uint8."""
    recipe = FixMatch(unlabeled_ratio=3, ctaugment=True)

    class Certain(nn.Module):
        def __init__(self, label: int) -> None:
            super().__init__()
            self.label = label

        def forward(self, x: Tensor) -> Tensor:
            return 20 * torch.eye(K)[self.label].expand(len(x), K)

    g = torch.Generator().manual_seed(0)
    image = lambda n: torch.rand(n, 3, 8, 8, generator=g)  # noqa: E731
    batch = {
        "labeled": Batch((image(4), image(4)), torch.arange(4), {"label": torch.zeros(4, dtype=torch.long)}),
        "unlabeled": Batch((image(12), image(12)), torch.arange(12)),
    }
    for label, right in ((0, True), (1, False)):
        method = made(recipe, Certain(label))
        method.average = None
        run(method, batch)
        rates: Tensor = method.learned.rates  # type: ignore[assignment, union-attr]
        touched = rates != 1
        if right:
            assert not touched.any()  # closeness 1 leaves rates of 1
        else:
            assert 8 <= int(touched.sum()) <= 16 and bool((rates[touched] <= 0.99).all())
    learned = made(recipe).learned
    assert isinstance(learned, LearnedAugment)
    pixels = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    view = (pixels / 255 - learned.mean) / learned.std
    assert torch.equal(learned._pixels(view), pixels)
    one, other = (learned.strong(view, torch.arange(5), 3, number) for number in (0, 1))
    assert one.shape == view.shape and not torch.allclose(one, view) and not torch.allclose(one, other)
    assert torch.equal(learned.strong(view, torch.arange(5), 3, 1), other)


def test_dash_lets_fewer_images_through_and_then_learns_hard_labels() -> None:
    recipe = Dash(unlabeled_ratio=3, warmup=0.2, every=0.1, rho_min=0.05)
    method = made(recipe)
    batch = batches(2)
    warm = []
    for step in range(10):
        losses = run(method, batches(2, step), step / 50, step)
        assert float(losses.total) == pytest.approx(supervised(batches(2, step)), rel=1e-5)
        if step / 50 >= 0.15:
            warm.append(supervised(batches(2, step)))
    rho = sum(warm) / len(warm)
    for progress, t in ((0.2, 1), (0.45, 3), (0.95, 8)):
        limit = max(1.0001 * 1.27 ** -(t - 1) * rho, 0.05)
        total, kept = 0.0, 0
        for weak, strong in zip(*(rows(v) for v in batch["unlabeled"].views), strict=True):
            if entropy(hot(largest(weak)), weak) <= limit:
                kept += 1
                total += entropy(softmax(weak, 0.5), strong)
        losses = run(method, batch, progress)
        assert float(losses.parts["rho"]) == pytest.approx(limit, rel=1e-5)
        assert float(losses.total) == pytest.approx(supervised(batch) + total / UNLABELED, rel=1e-5)
        assert float(losses.parts["kept"]) == pytest.approx(kept / UNLABELED)
    assert float(dash.bound(recipe, torch.tensor(1e-3, dtype=torch.float64), 0.5)) == 0.05
    method.losses_seen.copy_(torch.tensor([1e-3, 1.0]))  # type: ignore[operator]
    hard = 0.0
    for weak, strong in zip(*(rows(v) for v in batch["unlabeled"].views), strict=True):
        if entropy(hot(largest(weak)), weak) <= 0.05:
            hard += entropy(hot(largest(weak)), strong)
    assert float(run(method, batch, 0.5).total) == pytest.approx(supervised(batch) + hard / UNLABELED, rel=1e-5)


def test_flexmatch_counts_images_not_visits() -> None:
    method = made(FlexMatch(unlabeled_ratio=3, threshold=0.9))
    selected: dict[int, int] = {}
    for step in range(8):
        batch = batches(2, step)
        counts = [sum(c == k for c in selected.values()) for k in range(K)]
        most = max(*counts, IMAGES - len(selected))
        beta = [c / most for c in counts]
        total = 0.0
        for i, weak, strong in zip(
            batch["unlabeled"].index.tolist(), *(rows(v) for v in batch["unlabeled"].views), strict=True
        ):
            p = softmax(weak)
            k = largest(p)
            if max(p) >= 0.9 * beta[k] / (2 - beta[k]):
                total += entropy(hot(k), strong)
            if max(p) >= 0.9:
                selected[i] = k
        assert float(run(method, batch).total) == pytest.approx(supervised(batch) + total / UNLABELED, rel=1e-5)
    status = flexmatch.learning_status(method.selected, K)  # type: ignore[arg-type]
    counts = [sum(c == k for c in selected.values()) for k in range(K)]
    assert status.tolist() == pytest.approx([c / max(*counts, IMAGES - len(selected)) for c in counts])


def test_freematch() -> None:
    momentum = 0.7
    method = made(FreeMatch(unlabeled_ratio=3, momentum=momentum, fairness_weight=0.3))
    tau, mean, histogram, counts = 1 / K, [1 / K] * K, [1 / K] * K, []
    for step in range(4):
        batch = batches(2, step, scale=1.0)
        pairs = list(zip(*(rows(v) for v in batch["unlabeled"].views), strict=True))
        probs = [softmax(weak) for weak, _ in pairs]
        tau = momentum * tau + (1 - momentum) * sum(map(max, probs)) / UNLABELED
        mean = [momentum * m + (1 - momentum) * sum(p[k] for p in probs) / UNLABELED for k, m in enumerate(mean)]
        found = [sum(largest(p) == k for p in probs) / UNLABELED for k in range(K)]
        histogram = [momentum * h + (1 - momentum) * f for h, f in zip(histogram, found, strict=True)]
        total, chosen = 0.0, []
        for p, (_, strong) in zip(probs, pairs, strict=True):
            k = largest(p)
            if max(p) >= tau * mean[k] / max(mean):
                total += entropy(hot(k), strong)
                chosen.append(softmax(strong))
        strong_mean = [sum(q[k] for q in chosen) / len(chosen) for k in range(K)]
        strong_found = [sum(largest(q) == k for q in chosen) / len(chosen) for k in range(K)]
        a = [m / h for m, h in zip(mean, histogram, strict=True)]
        b = [m / h if h else 0.0 for m, h in zip(strong_mean, strong_found, strict=True)]
        fair = sum(x / sum(a) * math.log(y / sum(b) + 1e-12) for x, y in zip(a, b, strict=True))
        counts.append(len(chosen))
        losses = run(method, batch)
        assert float(losses.total) == pytest.approx(supervised(batch) + total / UNLABELED + 0.3 * fair, rel=1e-4)
    assert min(counts) < UNLABELED
    assert float(freematch.fairness_loss(torch.randn(3, K), torch.zeros(3), torch.ones(K), torch.ones(K))) == 0


def test_softmatch() -> None:
    momentum = 0.7
    method = made(SoftMatch(unlabeled_ratio=3, momentum=momentum))
    mu, variance, mean = 1 / K, 1.0, [1 / K] * K
    for step in range(4):
        batch = batches(2, step, scale=1.0)
        pairs = list(zip(*(rows(v) for v in batch["unlabeled"].views), strict=True))
        probs = [softmax(weak) for weak, _ in pairs]
        mean = [momentum * m + (1 - momentum) * sum(p[k] for p in probs) / UNLABELED for k, m in enumerate(mean)]
        aligned = [[x / (m + 1e-6) for x, m in zip(p, mean, strict=True)] for p in probs]
        best = [max(x) / sum(x) for x in aligned]
        average = sum(best) / UNLABELED
        mu = momentum * mu + (1 - momentum) * average
        spread = sum((x - average) ** 2 for x in best) / (UNLABELED - 1)
        variance = momentum * variance + (1 - momentum) * spread
        total = 0.0
        for p, x, (_, strong) in zip(probs, best, pairs, strict=True):
            weight = 1.0 if x >= mu else math.exp(-((x - mu) ** 2) / (2 * variance / 4))
            total += weight * entropy(hot(largest(p)), strong)
        assert float(run(method, batch).total) == pytest.approx(supervised(batch) + total / UNLABELED, rel=1e-5)
    one = softmatch.gaussian_weight(torch.tensor([0.9, 0.5]), torch.tensor(0.7), torch.tensor(0.04), 2.0)
    assert one.tolist() == pytest.approx([1.0, math.exp(-2.0)])
