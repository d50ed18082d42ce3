"""Losses that tell an image's views from other images, against loops in float64, closed forms, and lightly's."""

from __future__ import annotations

import math

import pytest
import torch

from sslscale.losses import queue_entropies
from sslscale.methods.moco_v3.method import batch_contrast
from sslscale.methods.nnclr.method import nnclr_loss
from sslscale.methods.pirl.method import pirl_nce
from sslscale.methods.scl.method import spectral_loss
from sslscale.methods.supcon.method import supcon_loss
from sslscale.nn.queue import Queue

Row = list[float]


def rows(seed: int, count: int = 7, dim: int = 5, *, unit: bool = False) -> torch.Tensor:
    x = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(x, dim=1) if unit else x


def dot(u: Row, v: Row) -> float:
    return sum(x * y for x, y in zip(u, v, strict=True))


def unit(u: Row) -> Row:
    return [x / math.sqrt(dot(u, u)) for x in u]


def units(x: torch.Tensor) -> list[Row]:
    return [unit(u) for u in x.double().tolist()]


def softmax_loss(scores: Row, place: int) -> float:
    return -math.log(math.exp(scores[place]) / sum(math.exp(s) for s in scores))


def test_nnclr_is_equation_4_over_neighbours_in_the_queue() -> None:
    torch.manual_seed(0)
    queue = Queue(11, 5)
    first, second = rows(1), rows(2)
    support = queue.rows.double().tolist()
    loss = 0.0
    for i, z in enumerate(units(first)):
        nearest = min(support, key=lambda q: math.dist(q, z))  # eq. 2: the least distance
        loss += softmax_loss([dot(nearest, p) / 0.1 for p in units(second)], i) / 7
    assert float(nnclr_loss(queue.nearest(first), second, 0.1)) == pytest.approx(loss, rel=1e-5)


def test_a_queue_is_first_in_first_out_and_goes_round() -> None:
    queue = Queue(5, 2)
    pushed = [torch.full((3, 2), float(n)) for n in range(1, 4)]
    queue.push(pushed[0])
    assert queue.rows[:3].tolist() == pushed[0].tolist() and int(queue.filled) == 3
    queue.push(pushed[1])
    assert queue.rows[:, 0].tolist() == [2, 1, 1, 2, 2] and int(queue.filled) == 5
    queue.push(pushed[2])
    assert queue.rows[:, 0].tolist() == [2, 3, 3, 3, 2] and int(queue.place) == 4
    queue.push(torch.arange(14.0).view(7, 2))  # more than it holds: the newest stay
    assert sorted(queue.rows[:, 0].tolist()) == [4, 6, 8, 10, 12]


@pytest.mark.parametrize("mu", [1.0, 10.0])
def test_spectral_is_its_population_loss_over_the_batch(mu: float) -> None:
    first, second = rows(1), rows(2) * 2

    def cut(u: Row) -> Row:
        length = math.sqrt(dot(u, u))
        return [x * math.sqrt(mu) / length for x in u] if length > math.sqrt(mu) else u

    a, b = ([cut(u) for u in x.double().tolist()] for x in (first, second))
    together = sum(dot(u, v) for u, v in zip(a, b, strict=True)) / 7
    apart = sum(dot(a[i], b[j]) ** 2 for i in range(7) for j in range(7) if i != j) / (7 * 6)
    assert float(spectral_loss(first, second, mu)) == pytest.approx((-2 * together + apart) / mu, rel=1e-5)


def test_spectral_closed_forms() -> None:
    eye = torch.eye(4)  # orthogonal images, identical views
    assert float(spectral_loss(eye, eye, 1.0)) == pytest.approx(-2)
    one = torch.ones(4, 4) / 2  # collapsed
    assert float(spectral_loss(one, one, 1.0)) == pytest.approx(-2 + 1)
    assert float(spectral_loss(eye / 2, eye / 2, 1.0)) == pytest.approx(-0.5)  # short ones stay short


def test_supcon_is_equation_2_with_unlabelled_images_alone() -> None:
    first, second = rows(1), rows(2)
    label = [0, 1, 0, -1, 1, 0, -1]
    z = [*units(first), *units(second)]
    classes = [str(y) if y >= 0 else f"alone {i}" for i, y in enumerate(label)] * 2
    loss = 0.0
    for i in range(14):
        others = [a for a in range(14) if a != i]
        total = sum(math.exp(dot(z[i], z[a]) / 0.1) for a in others)
        positives = [p for p in others if classes[p] == classes[i]]
        loss -= sum(math.log(math.exp(dot(z[i], z[p]) / 0.1) / total) for p in positives) / len(positives) / 14
    assert float(supcon_loss(first, second, torch.tensor(label), 0.1)) == pytest.approx(loss, rel=1e-5)


def test_supcon_without_labels_is_simclr() -> None:
    from sslscale.methods.simclr.method import nt_xent

    first, second = rows(1), rows(2)
    none = torch.full((7,), -1)
    assert float(supcon_loss(first, second, none, 0.3)) == pytest.approx(float(nt_xent(first, second, 0.3)), rel=1e-6)


def test_moco_v2_is_equation_1_over_key_and_queue() -> None:
    query, key, queue = rows(1, unit=True), rows(2, unit=True), rows(3, 12, unit=True)
    loss = 0.0
    for q, k in zip(query.double().tolist(), key.double().tolist(), strict=True):
        loss += softmax_loss([dot(q, k) / 0.2, *(dot(q, n) / 0.2 for n in queue.double().tolist())], 0) / 7
    assert float(queue_entropies(query, key, queue, 0.2).mean()) == pytest.approx(loss, rel=1e-5)


def test_moco_v3_is_algorithm_1() -> None:
    query, key = rows(1), rows(2)
    loss = sum(2 * 0.2 * softmax_loss([dot(q, k) / 0.2 for k in units(key)], i) / 7 for i, q in enumerate(units(query)))
    assert float(batch_contrast(query, key, 0.2)) == pytest.approx(loss, rel=1e-5)


def test_pirl_is_equations_3_and_4_with_the_memory() -> None:
    memory, embedding, negatives = rows(1, unit=True), rows(2), rows(3, 12, unit=True)
    loss = 0.0
    for m, v in zip(memory.double().tolist(), units(embedding), strict=True):
        scores = [math.exp(dot(m, v) / 0.07), *(math.exp(dot(n, v) / 0.07) for n in negatives.double().tolist())]
        h = [s / sum(scores) for s in scores]
        loss -= (math.log(h[0]) + sum(math.log(1 - p) for p in h[1:])) / 7
    assert float(pirl_nce(memory, embedding, negatives, 0.07)) == pytest.approx(loss, rel=1e-4)


def test_losses_are_in_float32_under_autocast() -> None:
    from sslscale.methods.simclr.method import nt_xent

    first, second, queue = rows(1, 32, 16), rows(2, 32, 16), rows(3, 64, 16, unit=True)
    for loss in (
        lambda a, b: nt_xent(a, b, 0.07),
        lambda a, b: nnclr_loss(a, b, 0.07),
        lambda a, b: spectral_loss(a, b, 1.0),
        lambda a, b: queue_entropies(a, b, queue, 0.07).mean(),
        lambda a, b: pirl_nce(a, b, queue, 0.07),
    ):
        exact = loss(first, second)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(loss(first, second), exact)


def test_the_losses_are_lightlys() -> None:
    losses = pytest.importorskip("lightly.loss")
    first, second = rows(1, 32, 16), rows(2, 32, 16)
    queue = rows(3, 64, 16, unit=True)
    theirs = losses.NTXentLoss(temperature=0.2, memory_bank_size=(64, 16))
    theirs.memory_bank.bank = queue
    one, two = (torch.nn.functional.normalize(x, dim=1) for x in (first, second))
    torch.testing.assert_close(
        queue_entropies(one, two, queue, 0.2).mean(), theirs(first, second), rtol=1e-5, atol=1e-5
    )
