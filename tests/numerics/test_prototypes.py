"""Sinkhorn's assignments, the losses of SwAV, DINO and DINOv2, against loops in float64, closed forms, lightly's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from sslscale.data import rng
from sslscale.losses import cross_view_entropy, warm_temperature
from sslscale.methods.deepcluster_v2.method import cluster_entropy
from sslscale.methods.dinov2.method import ibot_loss, koleo_loss
from sslscale.nn.heads import PrototypeHead
from sslscale.nn.masks import BLOCK_DRAWS, block_masks
from sslscale.nn.sinkhorn import sinkhorn, usage_entropy
from sslscale.nn.spherical_kmeans import spherical_kmeans


def scores(seed: int, count: int = 8, dim: int = 5) -> torch.Tensor:
    return torch.rand(count, dim, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def log_softmax(row: list[float], temperature: float) -> list[float]:
    total = math.log(sum(math.exp(s / temperature) for s in row))
    return [s / temperature - total for s in row]


def literal_sinkhorn(rows: list[list[float]], epsilon: float, iterations: int) -> list[list[float]]:
    """SwAV's pseudo-code (appendix A), on Q of prototypes x images, in float64."""
    images, prototypes = len(rows), len(rows[0])
    q = [[math.exp(rows[b][k] / epsilon) for b in range(images)] for k in range(prototypes)]
    total = sum(map(sum, q))
    q = [[x / total for x in row] for row in q]
    for _ in range(iterations):
        q = [[x / sum(row) / prototypes for x in row] for row in q]
        columns = [sum(q[k][b] for k in range(prototypes)) for b in range(images)]
        q = [[q[k][b] / columns[b] / images for b in range(images)] for k in range(prototypes)]
    return [[q[k][b] * images for k in range(prototypes)] for b in range(images)]


def test_sinkhorn_is_the_papers() -> None:
    rows = scores(0)
    expected = torch.tensor(literal_sinkhorn(rows.double().tolist(), 0.05, 3))
    torch.testing.assert_close(sinkhorn(rows, 0.05, 3), expected, rtol=1e-4, atol=1e-6)


def test_sinkhorn_uses_prototypes_evenly_and_keeps_what_is_even() -> None:
    q = sinkhorn(scores(0, 400, 10), 0.05, 50)
    torch.testing.assert_close(q.sum(0), torch.full((10,), 40.0), rtol=1e-2, atol=0.1)
    torch.testing.assert_close(q.sum(1), torch.ones(400))
    assert float(usage_entropy(q)) == pytest.approx(1, abs=1e-4)
    same = sinkhorn(torch.ones(6, 3), 0.05, 3)  # collapsed
    torch.testing.assert_close(same, torch.full((6, 3), 1 / 3))
    one = torch.zeros(6, 3)
    one[:, 1] = 1
    assert float(usage_entropy(one)) == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(sinkhorn(torch.eye(4) * 1000, 0.05, 3)).all()


def test_cross_view_entropy_is_swavs_and_dinos() -> None:
    student = [scores(n) for n in range(4)]
    targets = [scores(n + 9).softmax(1) for n in range(2)]
    loss, count = 0.0, 0
    for t in range(2):
        for s in range(4):
            if s == t:
                continue
            rows = zip(targets[t].double().tolist(), student[s].double().tolist(), strict=True)
            loss += sum(-sum(q * x for q, x in zip(a, log_softmax(b, 0.1), strict=True)) for a, b in rows) / 8
            count += 1
    assert float(cross_view_entropy(student, targets, 0.1)) == pytest.approx(loss / count, rel=1e-5)
    uniform = [torch.zeros(8, 5)] * 2
    assert float(cross_view_entropy(uniform, [u.softmax(1) for u in uniform], 0.1)) == pytest.approx(math.log(5))


def test_ibot_is_the_mean_over_masked_patches_then_images() -> None:
    masked = torch.tensor([[True, False, True, True], [False] * 4, [False, True, False, False]])
    student, target = scores(1, 4), scores(2, 4).softmax(1)
    terms = [
        -sum(q * x for q, x in zip(a, log_softmax(b, 0.1), strict=True))
        for a, b in zip(target.double().tolist(), student.double().tolist(), strict=True)
    ]
    expected = (sum(terms[:3]) / 3 + terms[3]) / 3
    assert float(ibot_loss(student, target, masked, 0.1)) == pytest.approx(expected, rel=1e-5)
    none = torch.zeros(3, 4, dtype=torch.bool)
    assert float(ibot_loss(student[:0], target[:0], none, 0.1)) == 0


def test_koleo_is_the_log_distance_to_the_nearest() -> None:
    features = scores(3, 6, 4)
    z = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in features.double().tolist()]
    nearest = [min(math.dist(z[i], z[j]) for j in range(6) if j != i) for i in range(6)]
    assert float(koleo_loss(features)) == pytest.approx(-sum(map(math.log, nearest)) / 6, rel=1e-4)
    assert float(koleo_loss(torch.eye(4))) == pytest.approx(-math.log(math.sqrt(2)), rel=1e-4)  # orthogonal
    assert float(koleo_loss(torch.ones(4, 4))) > 10  # collapsed


def test_the_losses_are_lightlys() -> None:
    losses: Any = pytest.importorskip("lightly.loss")
    student, teacher = [scores(n, 16) for n in range(4)], [scores(n + 9, 16) for n in range(2)]
    theirs = losses.DINOLoss(output_dim=5, teacher_temp=0.05, student_temp=0.1)(teacher, student)
    ours = cross_view_entropy(student, [(t / 0.05).softmax(1) for t in teacher], 0.1)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    theirs = losses.SwaVLoss()(student[:2], student[2:]).squeeze()
    ours = cross_view_entropy(student, [sinkhorn(s, 0.05, 3) for s in student[:2]], 0.1)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    masked = torch.rand(6, 2, 2, generator=torch.Generator().manual_seed(0)) < 0.5
    count = int(masked.sum())
    ibot = losses.IBOTPatchLoss(output_dim=5, teacher_temp=0.05)
    theirs = ibot(scores(1, count), scores(2, count), masked)
    ours = ibot_loss(scores(2, count), (scores(1, count) / 0.05).softmax(1), masked.flatten(1), 0.1)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(koleo_loss(student[0]), losses.KoLeoLoss()(student[0]), rtol=1e-5, atol=1e-5)


def test_the_teachers_temperature_warms_up() -> None:
    assert warm_temperature(0.04, 0.07, 30, 0) == 0.04
    assert warm_temperature(0.04, 0.07, 30, 15) == pytest.approx(0.055)
    assert warm_temperature(0.04, 0.07, 30, 31) == 0.07 == warm_temperature(0.04, 0.07, 0, 0)


def test_the_head_gives_cosines_with_prototypes() -> None:
    torch.manual_seed(0)
    head = PrototypeHead(6, 8, 4, 10)
    x = torch.randn(3, 6)
    with torch.no_grad():
        found = head(x)
        head.last.weight.mul_(7)  # the length of a prototype does not count
        torch.testing.assert_close(head(x), found)
        z = head.mlp(x)
    assert found.abs().max() <= 1 + 1e-6
    expected = z @ head.last.weight.T / z.norm(dim=1)[:, None] / head.last.weight.norm(dim=1)
    torch.testing.assert_close(found, expected)


def test_masks_are_blocks_of_the_wanted_share() -> None:
    index = torch.arange(4000)
    draws = rng.uniforms(1, torch.zeros_like(index), index, BLOCK_DRAWS)
    masks = block_masks(draws, 14, 0.5, (0.1, 0.5))
    share = masks.float().mean(1)
    some = share > 0
    assert float(some.float().mean()) == pytest.approx(0.5, abs=0.03)
    assert float(share.max()) <= 0.5 + 0.5 / 196 and float(share[some].mean()) == pytest.approx(0.29, abs=0.03)
    square = masks.view(-1, 14, 14)
    together = (square[:, 1:] & square[:, :-1]).sum() / square.sum()
    assert float(together) > 0.6  # neighbours in a column; .3 if patches were drawn one by one
    assert torch.equal(masks, block_masks(draws, 14, 0.5, (0.1, 0.5)))
    assert not block_masks(draws, 14, 0.0, (0.1, 0.5)).any()
    assert block_masks(draws, 3, 1.0, (0.3, 0.5)).sum(1).max() <= 4


def unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def test_deepclusters_loss_is_the_cross_entropy_of_every_view_with_the_images_cluster() -> None:
    """Three views of four images, two heads of five centroids, term by term in float64."""
    rows, temperature = unit(scores(1, 12)), 0.1
    centroids = torch.stack([unit(scores(2, 5)), unit(scores(3, 5))])
    target = torch.tensor([[0, 3, 3, 1], [4, 0, 2, 2]])
    terms = []
    for head in range(2):
        for view in range(3):
            for image in range(4):
                z = rows[4 * view + image].double()
                cosines: list[float] = (centroids[head].double() * z).sum(1).tolist()
                terms.append(-log_softmax(cosines, temperature)[int(target[head, image])])
    found = cluster_entropy(rows, centroids, target, temperature)
    assert float(found) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_spherical_k_means_is_that_of_loops() -> None:
    """Assign by the largest cosine, move each centroid to its rows' mean, scale it to length 1; in float64."""
    rows = unit(scores(4, 60, 3))
    first = rows[:4].clone()
    first[3] = -rows.mean(0) / rows.mean(0).norm() * 1e-3 + torch.tensor([0.0, 0.0, -9.0])
    first[3] /= first[3].norm() * 1e9  # so near 0 that no row is nearest to it
    expected = first.double().tolist()
    points = rows.double().tolist()

    def nearest(point: list[float]) -> int:
        cosines = [sum(a * b for a, b in zip(point, c, strict=True)) for c in expected]
        return cosines.index(max(cosines))

    for _ in range(5):
        groups: dict[int, list[list[float]]] = {}
        for point in points:
            groups.setdefault(nearest(point), []).append(point)
        for number, members in groups.items():
            mean = [sum(column) / len(members) for column in zip(*members, strict=True)]
            length = math.sqrt(sum(x * x for x in mean))
            expected[number] = [x / length for x in mean]
    found, assigned = spherical_kmeans(lambda: iter(rows.split(7)), first, 5)
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-6)
    assert assigned.tolist() == [nearest(point) for point in points]
    twin = torch.cat([rows[:3], rows[:1]])  # whose rows all go to the first of the two
    once, _ = spherical_kmeans(lambda: iter(rows.split(7)), twin, 1)
    assert once[3].equal(twin[3]) and not once[0].equal(twin[0])  # a centroid without a row stays
