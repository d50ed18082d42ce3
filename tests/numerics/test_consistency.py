"""Losses that ask for agreement, against slow, literal transcriptions of the papers' formulas, in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sslscale.data import rng
from sslscale.data.batch import Batch
from sslscale.losses import gaussian_rise, linear_rise
from sslscale.methods.mean_teacher import MeanTeacher
from sslscale.methods.pi_model import PiModel
from sslscale.methods.pseudo_label import PseudoLabel
from sslscale.methods.temporal_ensembling import TemporalEnsembling
from sslscale.methods.vat import VAT
from sslscale.methods.vat import method as vat
from sslscale.nn.batch_norm import statistics_kept
from sslscale.nn.memory import SampleMemory
from tests.numerics.literal import (
    UNLABELED,
    Fixed,
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
        "labeled": Batch((torch.randn(4, 3, 8, 8, generator=g),), torch.arange(4), {"label": torch.arange(4)}),
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


def test_the_weight_of_vats_change_rises_and_that_of_the_entropy_does_not() -> None:
    images = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = {
        "labeled": Batch((images[0],), torch.arange(4), {"label": torch.arange(4)}),
        "unlabeled": Batch((images[1],), torch.arange(4)),
    }
    recipe = VAT(unlabeled_weight=3.0, entropy_weight=0.5, ramp=0.4)
    method = made(recipe, nn.Sequential(nn.Flatten(), nn.Linear(192, K)))
    for progress, share in ((0.0, 0.0), (0.1, 0.25), (0.2, 0.5), (0.4, 1.0), (0.9, 1.0)):
        losses = run(method, batch, progress)
        parts = losses.parts
        expected = parts["labeled_loss"] + share * 3.0 * parts["divergence"] + 0.5 * parts["entropy"]
        torch.testing.assert_close(losses.total.detach(), expected)


def test_ramps() -> None:
    assert gaussian_rise(0.0, 0.4) == pytest.approx(math.exp(-5))
    assert gaussian_rise(0.4, 0.4) == gaussian_rise(0.9, 0.4) == 1
    assert [linear_rise(t, 0.2, 0.6) for t in (0.1, 0.2, 0.4, 0.6, 0.9)] == pytest.approx([0, 0, 0.5, 1, 1])


def test_a_memory_stays_on_the_host_and_can_lie_in_a_file(tmp_path: Any) -> None:
    memory = SampleMemory(6, 3, tmp_path / "scratch")
    holder = nn.ModuleList([memory]).to(torch.float64)
    assert memory.rows.dtype == torch.float32 and list(holder.state_dict()) == ["0._extra_state"]
    assert not list(holder.buffers())  # which workers would send to each other
    memory.write(torch.tensor([4, 1]), torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
    assert memory.read(torch.tensor([1, 0, 4]), torch.device("cpu")).tolist() == [[4, 5, 6], [0, 0, 0], [1, 2, 3]]
    stored = np.fromfile(tmp_path / "scratch/memory.bin", np.float32).reshape(6, 3)
    assert stored[4].tolist() == [1, 2, 3] and stored.sum() == 21
    other = SampleMemory(6, 3)
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.rows, memory.rows)
