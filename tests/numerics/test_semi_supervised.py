"""Losses of the semi-supervised methods against slow, literal transcriptions of the papers' formulas, in float64."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sslscale.data import rng
from sslscale.data.loader import Batch
from sslscale.data.mix import mixup_with_all
from sslscale.losses import gaussian_rise, linear_rise
from sslscale.methods import dash, flexmatch, freematch, remixmatch, softmatch, uda, vat
from sslscale.methods.method import ClassifierMethod, Losses, Moment, build_method
from sslscale.nn.batch_norm import statistics_kept
from sslscale.nn.learned_augment import LearnedAugment
from sslscale.nn.memory import SampleMemory
from sslscale.recipes.augment import AugmentConfig
from sslscale.recipes.dash import Dash
from sslscale.recipes.fixmatch import FixMatch
from sslscale.recipes.flexmatch import FlexMatch
from sslscale.recipes.freematch import FreeMatch
from sslscale.recipes.mean_teacher import MeanTeacher
from sslscale.recipes.mixmatch import MixMatch
from sslscale.recipes.model import ImageConfig, ModelConfig
from sslscale.recipes.pi_model import PiModel
from sslscale.recipes.pseudo_label import PseudoLabel
from sslscale.recipes.remixmatch import ReMixMatch
from sslscale.recipes.semi_supervised import SemiSupervised
from sslscale.recipes.softmatch import SoftMatch
from sslscale.recipes.temporal_ensembling import TemporalEnsembling
from sslscale.recipes.train import TrainConfig
from sslscale.recipes.uda import UDA
from sslscale.recipes.vat import VAT

K, LABELED, UNLABELED, IMAGES = 5, 4, 12, 40


class Fixed(nn.Module):
    """Stands where the network does and gives logits known beforehand: images are their own logits."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.dropout, self.head = nn.Flatten(), nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, 0, :]


def made(recipe: SemiSupervised, network: nn.Module | None = None) -> ClassifierMethod:
    torch.manual_seed(0)
    method = build_method(recipe, ModelConfig(name="wrn_10_0.5"), K)
    assert isinstance(method, ClassifierMethod)
    strong = any(recipe.views(stream)[1] for stream in recipe.batch_sizes(1))
    config = TrainConfig(
        method=recipe,
        model=ModelConfig(name="wrn_10_0.5"),
        image=ImageConfig(size=8),
        augment_strong=AugmentConfig() if strong else None,
        num_steps=10,
        seed=3,
    )
    method.prepare({"labeled": 20, "unlabeled": IMAGES}, config)
    method.network = network or Fixed()  # type: ignore[assignment]
    return method.train()


def batches(views: int, seed: int = 0, scale: float = 3.0) -> dict[str, Batch]:
    g = torch.Generator().manual_seed(seed)
    image = lambda count: (scale * torch.randn(count, K, generator=g))[:, None, None, :].expand(-1, 3, 1, -1)  # noqa: E731
    index = torch.randperm(IMAGES, generator=g)[:UNLABELED]
    label = torch.randint(0, K, (LABELED,), generator=g)
    return {
        "labeled": Batch((image(LABELED), image(LABELED)), torch.arange(LABELED), label),
        "unlabeled": Batch(tuple(image(UNLABELED) for _ in range(views)), index),
    }


def rows(view: Tensor) -> list[list[float]]:
    return view[:, 0, 0, :].double().tolist()


def softmax(z: list[float], temperature: float = 1.0) -> list[float]:
    values = [math.exp(x / temperature) for x in z]
    return [v / sum(values) for v in values]


def entropy(target: list[float], z: list[float]) -> float:
    """H(target, softmax(z))."""
    return -sum(t * math.log(p) for t, p in zip(target, softmax(z), strict=True))


def hot(label: int) -> list[float]:
    return [float(k == label) for k in range(K)]


def supervised(batch: Mapping[str, Batch]) -> float:
    labeled = batch["labeled"]
    assert labeled.label is not None
    found = [entropy(hot(y), z) for z, y in zip(rows(labeled.views[0]), labeled.label.tolist(), strict=True)]
    return sum(found) / len(found)


def largest(p: list[float]) -> int:
    return max(range(K), key=lambda k: p[k])


def run(method: ClassifierMethod, batch: Mapping[str, Batch], progress: float = 0.5, step: int = 5) -> Losses:
    method.before_step(Moment(step, progress, 2.0))
    return method(batch)


def test_pseudo_label() -> None:
    method = made(PseudoLabel(threshold=0.8, ramp=(0.1, 0.6)))
    batch = batches(1)
    total = 0.0
    for z in rows(batch["unlabeled"].views[0]):
        p = softmax(z)
        if max(p) >= 0.8:
            total += entropy(hot(largest(p)), z)
    for progress, alpha in ((0.05, 0.0), (0.35, 1.5), (0.9, 3.0)):
        loss = run(method, batch, progress).total
        assert float(loss) == pytest.approx(supervised(batch) + alpha * total / UNLABELED, rel=1e-5)


def test_pi_model() -> None:
    batch = batches(2)
    squares = 0.0
    for a, b in zip(*(rows(v) for v in batch["unlabeled"].views), strict=True):
        squares += sum((p - q) ** 2 for p, q in zip(softmax(a), softmax(b), strict=True)) / K
    weight = 100 * math.exp(-5 * (1 - 0.2 / 0.4) ** 2)
    loss = run(made(PiModel(ramp=0.4)), batch, 0.2).total
    assert float(loss) == pytest.approx(supervised(batch) + weight * squares / UNLABELED, rel=1e-5)


def test_temporal_ensembling_remembers_each_image_by_its_number() -> None:
    """Algorithm 2 with dictionaries, over visits at different times."""
    method = made(TemporalEnsembling(momentum=0.6, ramp=0.4))
    past: dict[int, list[float]] = {}
    visits: dict[int, int] = {}
    for step in range(9):
        batch = batches(1, step)
        squares = 0.0
        for i, z in zip(batch["unlabeled"].index.tolist(), rows(batch["unlabeled"].views[0]), strict=True):
            p = softmax(z)
            if i in past:
                target = [x / (1 - 0.6 ** visits[i]) for x in past[i]]
                squares += sum((a - b) ** 2 for a, b in zip(p, target, strict=True)) / K
            past[i] = [0.6 * old + 0.4 * new for old, new in zip(past.get(i, [0.0] * K), p, strict=True)]
            visits[i] = visits.get(i, 0) + 1
        loss = run(method, batch, 1.0).total
        assert float(loss) == pytest.approx(supervised(batch) + 100 * squares / UNLABELED, rel=1e-4)
    assert max(visits.values()) > 2


def test_mean_teacher_agrees_with_its_average() -> None:
    method = made(MeanTeacher(ramp=0.4, ema=0.999, ema_ramp=0.99))

    class Doubled(Fixed):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    method.average = Doubled()  # type: ignore[assignment]
    batch = batches(2)
    squares = 0.0
    for a, b in zip(*(rows(v) for v in batch["unlabeled"].views), strict=True):
        teacher = softmax([2 * x for x in b])
        squares += sum((p - q) ** 2 for p, q in zip(softmax(a), teacher, strict=True)) / K
    loss = run(method, batch, 0.4).total
    assert float(loss) == pytest.approx(supervised(batch) + 100 * squares / UNLABELED, rel=1e-5)
    assert method.momentum(3, 0.1) == pytest.approx(0.75)
    assert method.momentum(5000, 0.1) == 0.99 and method.momentum(5000, 0.5) == 0.999


def test_the_change_of_vat_is_the_curvatures_first_direction() -> None:
    """Section 3.3: for a linear softmax the divergence is r' H r / 2 with H = W' (diag p - p p') W."""
    torch.manual_seed(1)
    weight = torch.randn(K, 12, dtype=torch.float64)
    network = lambda x: x.flatten(1) @ weight.T  # noqa: E731
    images = torch.randn(6, 3, 2, 2, dtype=torch.float64)
    logits = network(images)
    found = vat.adversarial_direction(network, images, logits, torch.randn_like(images), xi=1e-3, iterations=60)
    for image, z in enumerate(logits):
        p = torch.tensor(softmax(z.tolist()), dtype=torch.float64)
        hessian = weight.T @ (torch.diag(p) - p[:, None] * p[None]) @ weight
        values, vectors = torch.linalg.eigh(hessian)
        assert values[-1] > 1.05 * values[-2]
        assert abs(float(found[image].flatten() @ vectors[:, -1])) == pytest.approx(1, abs=1e-3)
    p, q = (torch.randn(4, K, dtype=torch.float64) for _ in range(2))
    total = 0.0
    for a, b in zip(p.tolist(), q.tolist(), strict=True):
        total += sum(x * math.log(x / y) for x, y in zip(softmax(a), softmax(b), strict=True))
    assert float(vat.divergence(p, q)) == pytest.approx(total / 4)


def test_vat_adds_divergence_and_entropy_and_leaves_no_trace_in_batch_norm() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, K))
    method = made(VAT(epsilon=2.0, unlabeled_weight=3.0, entropy_weight=0.5), network)
    g = torch.Generator().manual_seed(0)
    batch = {
        "labeled": Batch((torch.randn(4, 3, 8, 8, generator=g),), torch.arange(4), torch.arange(4)),
        "unlabeled": Batch((torch.randn(6, 3, 8, 8, generator=g),), torch.arange(6)),
    }
    labeled_alone = nn.BatchNorm2d(4).train()
    labeled_alone(network[0](batch["labeled"].views[0]))
    losses = run(method, batch)
    torch.testing.assert_close(network[1].running_mean, labeled_alone.running_mean)
    parts = losses.parts
    assert parts["divergence"] > 0
    expected = parts["labeled_loss"] + 3.0 * parts["divergence"] + 0.5 * parts["entropy"]
    torch.testing.assert_close(losses.total.detach(), expected)
    images = batch["unlabeled"].views[0]
    with statistics_kept(network):
        mean = -sum(sum(p * math.log(p) for p in softmax(z)) for z in network(images).tolist()) / 6
    assert float(parts["entropy"]) == pytest.approx(mean, rel=1e-4)
    start = rng.global_normal(rng.stream_seed(3, "change 5"), images)
    with statistics_kept(network):
        random = network(images + 2.0 * vat._unit(start))
        assert vat.divergence(network(images), random) < parts["divergence"]


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
    assert losses.guess is not None and losses.guess.kept.tolist() == kept
    assert losses.guess.label.tolist() == [largest(softmax(z)) for z in rows(batch["unlabeled"].views[0])]


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


def test_ctaugment_learns_what_is_still_known() -> None:
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
        "labeled": Batch((image(4), image(4)), torch.arange(4), torch.zeros(4, dtype=torch.long)),
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
    assert dash.bound(recipe, 1e-3, 0.5) == 0.05
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


def mixed_literally(
    parts: list[tuple[list[list[float]], list[list[float]]]], seed: int
) -> list[tuple[list[float], list[float]]]:
    """Eqs. 8 to 11, with the same draws."""
    images = [x for part, _ in parts for x in part]
    labels = [y for _, part in parts for y in part]
    generator = np.random.default_rng(seed)
    drawn = generator.beta(0.75, 0.75, len(images))
    partner = generator.permutation(len(images))
    result = []
    for i in range(len(images)):
        a, j = max(drawn[i], 1 - drawn[i]), partner[i]
        mix = lambda x, y, a=a: [a * p + (1 - a) * q for p, q in zip(x, y, strict=True)]  # noqa: E731
        result.append((mix(images[i], images[j]), mix(labels[i], labels[j])))
    return result


def sharpened(p: list[float], temperature: float) -> list[float]:
    powers = [x ** (1 / temperature) for x in p]
    return [x / sum(powers) for x in powers]


def test_mixmatch() -> None:
    method = made(MixMatch(unlabeled_ratio=3, ramp=0.5))
    batch = batches(2, scale=1.0)
    first, second = (rows(v) for v in batch["unlabeled"].views)
    target = [
        sharpened([(p + q) / 2 for p, q in zip(softmax(a), softmax(b), strict=True)], 0.5)
        for a, b in zip(first, second, strict=True)
    ]
    truth = [hot(y) for y in batch["labeled"].label.tolist()]  # type: ignore[union-attr]
    parts = [(rows(batch["labeled"].views[0]), truth), (first, target), (second, target)]
    mixed = mixed_literally(parts, rng.stream_seed(3, "mixup 5"))
    known = sum(entropy(y, z) for z, y in mixed[:LABELED]) / LABELED
    squares = sum(sum((p - q) ** 2 for p, q in zip(softmax(z), y, strict=True)) / K for z, y in mixed[LABELED:]) / (
        2 * UNLABELED
    )
    loss = run(method, batch, 0.25).total
    assert float(loss) == pytest.approx(known + 75 * 0.5 * squares, rel=1e-5)


def test_remixmatch() -> None:
    method = made(ReMixMatch(unlabeled_ratio=3, strong=2, batches=3, ramp=0.5))

    class Turns(nn.Module):  # a head that always says the same
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(len(x), 4)

    network = Fixed()  # quarter turns need square images, whose first row are the logits
    network.head = nn.Sequential(nn.Unflatten(1, (3, K, K)), Fixed())  # type: ignore[assignment]
    method.network, method.turn_head = network, Turns()  # type: ignore[assignment]
    square = lambda view: view.expand(-1, 3, K, K).contiguous()  # noqa: E731
    predicted, known = [[1 / K] * K] * 3, [[1 / K] * K] * 3
    for step in range(2):
        batch = batches(3, step, scale=1.0)
        batch = {n: dataclasses.replace(b, views=tuple(square(v) for v in b.views)) for n, b in batch.items()}
        weak, first, second = (rows(v) for v in batch["unlabeled"].views)
        truth = [hot(y) for y in batch["labeled"].label.tolist()]  # type: ignore[union-attr]
        probs = [softmax(z) for z in weak]
        predicted = [*predicted[1:], [sum(p[k] for p in probs) / UNLABELED for k in range(K)]]
        known = [*known[1:], [sum(y[k] for y in truth) / LABELED for k in range(K)]]
        wanted = [sum(row[k] for row in known) / 3 + 1e-6 for k in range(K)]
        found = [sum(row[k] for row in predicted) / 3 + 1e-6 for k in range(K)]
        target = []
        for p in probs:
            ratio = [x * w / f for x, w, f in zip(p, wanted, found, strict=True)]
            target.append(sharpened([x / sum(ratio) for x in ratio], 0.5))
        parts = [(rows(batch["labeled"].views[0]), truth), (first, target), (second, target), (weak, target)]
        mixed = mixed_literally(parts, rng.stream_seed(3, "mixup 5"))
        total = sum(entropy(y, z) for z, y in mixed[:LABELED]) / LABELED
        total += 0.5 * 1.5 * sum(entropy(y, z) for z, y in mixed[LABELED:]) / (3 * UNLABELED)
        total += 0.5 * 0.5 * sum(entropy(y, z) for z, y in zip(first, target, strict=True)) / UNLABELED
        draws = rng.uniforms(rng.stream_seed(3, "turns 5"), torch.zeros(12).long(), batch["unlabeled"].index, 1)
        turns = [int(4 * u) for u in draws[:, 0].tolist()]
        says = [math.log(p) for p in softmax([0.0, 1.0, 2.0, 3.0])]
        total -= 0.5 * sum(says[t] for t in turns) / UNLABELED
        assert float(run(method, batch, 0.25).total) == pytest.approx(total, rel=1e-5)
    aligned = remixmatch.align(torch.full((1, 2), 0.5), torch.tensor([0.9, 0.1]), torch.tensor([0.5, 0.5]))
    assert aligned.tolist()[0] == pytest.approx([0.9, 0.1], abs=1e-5)


def test_ramps() -> None:
    assert gaussian_rise(0.0, 0.4) == pytest.approx(math.exp(-5))
    assert gaussian_rise(0.4, 0.4) == gaussian_rise(0.9, 0.4) == 1
    assert [linear_rise(t, 0.2, 0.6) for t in (0.1, 0.2, 0.4, 0.6, 0.9)] == pytest.approx([0, 0, 0.5, 1, 1])


def test_mixing_keeps_images_nearest_to_themselves() -> None:
    images, labels = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 2, 2), torch.eye(8)
    ((mixed, found),) = mixup_with_all([(images, labels)], 0.75, 1)
    assert torch.equal(found.argmax(1), torch.arange(8)) and bool((found.amax(1) >= 0.5).all())
    torch.testing.assert_close(mixed[:, 0, 0, 0], found @ torch.arange(8.0))


def test_a_memory_stays_on_the_host_and_can_lie_in_a_file(tmp_path: Any) -> None:
    memory = SampleMemory(6, 3, tmp_path / "scratch")
    holder = nn.ModuleList([memory]).to(torch.float64)
    assert memory.rows.dtype == torch.float32 and list(holder.state_dict()) == ["0._extra_state"]
    assert not list(holder.buffers())  # which workers would send to each other
    memory.write(torch.tensor([4, 1]), torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
    assert memory.read(torch.tensor([1, 0, 4])).tolist() == [[4, 5, 6], [0, 0, 0], [1, 2, 3]]
    stored = np.fromfile(tmp_path / "scratch/memory.bin", np.float32).reshape(6, 3)
    assert stored[4].tolist() == [1, 2, 3] and stored.sum() == 21
    other = SampleMemory(6, 3)
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.rows, memory.rows)
