"""LeJEPA, I-JEPA, MSN, TiCo, W-MSE, DenseCL, Gram anchoring: losses against loops in float64, and what is drawn."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from sslscale.data.batch import Batch
from sslscale.methods.densecl import DenseCL
from sslscale.methods.densecl.method import DenseCLMethod
from sslscale.methods.dinov2 import DINOv2
from sslscale.methods.dinov2.method import DINOv2Method, gram_loss
from sslscale.methods.ijepa import IJEPA
from sslscale.methods.ijepa.method import IJEPAMethod, Predictor, feature_loss
from sslscale.methods.lejepa import LeJEPA
from sslscale.methods.lejepa.method import LeJEPAMethod, invariance, sigreg
from sslscale.methods.method import StepInfo
from sslscale.methods.msn import MSN
from sslscale.methods.msn.method import MSNMethod, assignments, msn_terms
from sslscale.methods.tico import TiCo
from sslscale.methods.tico.method import TiCoMethod, next_covariance, tico_terms
from sslscale.methods.w_mse.method import whiten, whitened_error
from sslscale.nn.blocks_of_patches import block_size, draw_places, draw_sizes
from sslscale.nn.ema import linear_momentum
from sslscale.nn.vit_blocks import patch_pixels
from sslscale.settings.model import ModelConfig
from tests.configurations import CONFIGS


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(row: list[float]) -> list[float]:
    length = math.sqrt(sum(x * x for x in row))
    return [x / length for x in row]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


# --- LeJEPA -------------------------------------------------------------------------------------------------------


def literal_sigreg(z: torch.Tensor, directions: torch.Tensor, knots: int) -> float:
    """N int |phi_N(t) - phi(t)|^2 w(t) dt by complex numbers, the trapezoids of [-3, 3] one after the other."""
    count, total = len(z), 0.0
    ts = [-3 + 6 * k / (2 * knots - 2) for k in range(2 * knots - 1)]
    for direction in directions.double().T.tolist():
        values = []
        for t in ts:
            phi = sum(np.exp(1j * t * dot(row, direction)) for row in z.double().tolist()) / count
            values.append(abs(phi - math.exp(-t * t / 2)) ** 2 * math.exp(-t * t / 2))
        area = sum((values[k] + values[k + 1]) / 2 * (ts[k + 1] - ts[k]) for k in range(len(ts) - 1))
        total += count * area / directions.shape[1]
    return total


def test_sigreg_is_epps_and_pulleys_statistic_along_random_directions() -> None:
    z, directions = 1.5 * normal(0, 12, 4) + 0.3, normal(1, 4, 6)
    directions = directions / directions.norm(dim=0)
    assert float(sigreg(z, directions, 17)) == pytest.approx(literal_sigreg(z, directions, 17), rel=1e-5)


def test_sigreg_tells_normal_embeddings_from_others() -> None:
    directions = normal(0, 8, 64) / normal(0, 8, 64).norm(dim=0)
    gauss = normal(1, 2000, 8)
    found = {
        "normal": sigreg(gauss, directions, 17),
        "narrow": sigreg(gauss / 2, directions, 17),
        "shifted": sigreg(gauss + 1, directions, 17),
        "collapsed": sigreg(torch.zeros(2000, 8), directions, 17),
    }
    assert float(found["normal"]) < 1.5 and all(float(found[name]) > 50 for name in ("narrow", "shifted", "collapsed"))
    # of one point: int (1 - e^(-t^2/2))^2 e^(-t^2/2) dt = sqrt(2 pi) (1 - 2 / sqrt 2 + 1 / sqrt 3), without its tails
    whole = math.sqrt(2 * math.pi) * (1 - math.sqrt(2) + 1 / math.sqrt(3))
    assert float(found["collapsed"]) / 2000 == pytest.approx(whole, rel=0.02)


def test_lejepas_invariance_is_the_squared_distance_from_the_mean_of_the_global_views() -> None:
    views = normal(2, 4, 5, 3)
    rows, terms = views.double().tolist(), []
    for n in range(5):
        center = [(rows[0][n][d] + rows[1][n][d]) / 2 for d in range(3)]
        terms += [(rows[v][n][d] - center[d]) ** 2 for v in range(4) for d in range(3)]
    assert float(invariance(views, 2)) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_lejepas_directions_are_unit_and_new_at_each_step_and_the_loss_is_the_papers() -> None:
    torch.manual_seed(0)
    method = LeJEPAMethod(LeJEPA(directions=8, hidden=16, projection=4), ModelConfig(name="wrn_10_0.5"))
    batch = {"images": Batch(tuple(normal(3, 3, 6, 3, 8, 8)), torch.arange(6))}
    drawn = []
    for step in (0, 1, 1):
        method.before_step(StepInfo(step, 0.0, 0.0))
        drawn.append(method.draw(batch)["directions"])
    torch.testing.assert_close(drawn[0].norm(dim=0), torch.ones(8))
    assert torch.equal(drawn[1], drawn[2]) and not torch.equal(drawn[0], drawn[1])
    losses = method(batch)
    parts = {name: float(value) for name, value in losses.parts.items()}
    assert parts["loss"] == pytest.approx(0.95 * parts["invariance"] + 0.05 * parts["sigreg"], rel=1e-5)


# --- I-JEPA -------------------------------------------------------------------------------------------------------


def test_the_feature_loss_is_smooth_l1() -> None:
    predicted, target = 2 * normal(0, 2, 3, 4, 5), normal(1, 2, 3, 4, 5)
    terms = []
    for a, b in zip(predicted.double().flatten().tolist(), target.double().flatten().tolist(), strict=True):
        error = abs(a - b)
        terms.append(error * error / 2 if error < 1 else error - 0.5)
    assert min(terms) < 0.5 < max(terms)
    assert float(feature_loss(predicted, target)) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_blocks_lie_in_the_image_and_the_context_has_none_of_the_targets() -> None:
    side, index = 14, torch.arange(3000)
    seen_of, places = set(), torch.zeros(side * side)
    for step in range(6):
        sizes = draw_sizes(step, side, (0.85, 1.0), (0.15, 0.2), (0.75, 1.5), 4)
        assert 0.12 < sizes.target[0] * sizes.target[1] / side**2 < 0.23
        assert 0.7 < sizes.context[0] * sizes.context[1] / side**2 <= 1
        seen, targets = draw_places(step, index, side, sizes, 4)
        assert seen.shape == (3000, sizes.seen) and targets.shape == (3000, 4, sizes.target[0] * sizes.target[1])
        assert 0.1 < sizes.seen / side**2 < 0.5
        hidden = torch.zeros(3000, side * side, dtype=torch.bool).scatter(1, targets.flatten(1), True)
        assert not hidden.gather(1, seen).any()
        distinct = torch.zeros(3000, side * side, dtype=torch.bool).scatter(1, seen, True).sum(1)
        assert (distinct == sizes.seen).float().mean() > 0.999
        rows, columns = targets // side, targets % side
        for places_of, extent in ((rows, sizes.target[0]), (columns, sizes.target[1])):
            assert ((places_of.amax(2) - places_of.amin(2)) == extent - 1).all()
            assert int(places_of.min()) == 0 and int(places_of.max()) == side - 1  # the last place is reached too
        down = rows[seen.shape[0] // 2].float()
        assert len({tuple(row.tolist()) for row in down}) > 1  # the targets of an image differ
        few = draw_places(step, index[7:9], side, sizes, 4)
        assert torch.equal(few.seen, seen[7:9]) and torch.equal(few.targets, targets[7:9])
        seen_of.add(sizes.seen)
        places.index_add_(0, seen.flatten(), torch.ones(seen.numel()))
    assert len(seen_of) > 1
    square = (places / places.mean()).view(side, side)
    # the corners are seen alike often: the context is drawn from all that is left, not cut at its end
    corners = [float(square[y, x]) for y in (0, -1) for x in (0, -1)]
    assert max(corners) / min(corners) < 1.15


def test_a_block_has_about_its_area_and_aspect() -> None:
    assert block_size(14, 0.2, 1.0) == (6, 6)
    assert block_size(14, 0.15, 1.5) == (7, 4)
    assert block_size(4, 0.01, 1.0) == (1, 1) and block_size(4, 1.0, 1.5) == (4, 3)


def test_ijepas_student_sees_the_context_and_predicts_normed_features_of_the_teachers_targets() -> None:
    torch.manual_seed(0)
    method = IJEPAMethod(IJEPA(width=32, depth=1), ModelConfig(name="vit_32x2_4", grid=6))
    images = normal(4, 2, 3, 24, 24).requires_grad_()
    batch = {"images": Batch((images,), torch.arange(2))}
    with torch.no_grad():  # as after a training: the teacher's own last norm leaves no unit variance
        method.teacher.norm.weight.copy_(normal(5, 32).exp())
    drawn = method.draw(batch)
    tokens: list[Any] = []
    method.backbone.register_forward_hook(lambda m, i, o: tokens.append(o))
    asked: list[Any] = []

    class Knows(torch.nn.Module):
        def forward(self, known: torch.Tensor, seen: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            asked.append(targets)
            with torch.no_grad():
                whole = method.teacher.tokens(images)[1].double()
            rows = []
            for image, blocks in zip(whole, targets, strict=True):
                features = image[blocks]
                mean, variance = features.mean(-1, keepdim=True), features.var(-1, keepdim=True, unbiased=False)
                rows.append((features - mean) / (variance + 1e-5).sqrt())
            return torch.stack(rows).float() + 0.5

    method.predictor = Knows()  # type: ignore[assignment]
    assert float(method(batch).total) == pytest.approx(0.125, rel=1e-3)
    (gradient,) = torch.autograd.grad(tokens[0].square().sum(), images)
    for touched, seen in zip(patch_pixels(gradient, 4).abs().sum(2) > 0, drawn["seen"], strict=True):
        assert set(touched.nonzero()[:, 0].tolist()) == set(seen.tolist())
    assert method.result is method.teacher


def test_the_predictor_predicts_each_block_on_its_own_from_places() -> None:
    torch.manual_seed(0)
    predictor = Predictor(24, 32, 2, 3).double()
    tokens = normal(0, 2, 3, 24).double()
    seen = torch.tensor([[0, 4, 8], [2, 1, 5]])
    targets = torch.tensor([[[1, 2], [6, 7]], [[3, 4], [7, 8]]])
    found = predictor(tokens, seen, targets)
    for image in range(2):
        for block in range(2):
            known = predictor.embed(tokens[image]) + predictor.positions[seen[image]]
            masks = predictor.mask_token + predictor.positions[targets[image, block]]
            x = torch.cat([known, masks])[None]
            for layer in predictor.blocks:
                x = layer(x)
            torch.testing.assert_close(found[image, block], predictor.features(predictor.norm(x))[0, 3:])


# --- MSN ----------------------------------------------------------------------------------------------------------


def test_msn_is_equation_1() -> None:
    prototypes, views = normal(0, 5, 3), [normal(n, 4, 3) for n in (1, 2)]
    anchors = [assignments(z, prototypes, 0.1) for z in views]
    literal = []
    for z in views:
        rows = []
        for row in z.double().tolist():
            scores = [math.exp(dot(unit(row), unit(p)) / 0.1) for p in prototypes.double().tolist()]
            rows.append([s / sum(scores) for s in scores])
        literal.append(rows)
    torch.testing.assert_close(torch.stack(anchors), torch.tensor(literal), rtol=1e-4, atol=1e-6)
    target = normal(3, 4, 5).softmax(1)
    cross = [
        -dot(t, [math.log(p) for p in row])
        for rows in literal
        for row, t in zip(rows, target.double().tolist(), strict=True)
    ]
    mean = [sum(rows[n][k] for rows in literal for n in range(4)) / 8 for k in range(5)]
    agreement, entropy = msn_terms(anchors, target)
    assert float(agreement) == pytest.approx(sum(cross) / 8, rel=1e-4)
    assert float(entropy) == pytest.approx(-sum(p * math.log(p) for p in mean), rel=1e-4)


def test_msns_step_has_sharpened_targets_and_less_entropy_of_the_mean_is_more_loss() -> None:
    torch.manual_seed(0)
    settings = MSN(hidden=16, projection=8, prototypes=6, entropy=3.0, iterations=0, sharpening=0.25, temperature=0.1)
    method = MSNMethod(settings, ModelConfig(name="vit_32x2_4", grid=4))
    views = tuple(normal(n, 4, 3, 16, 16) for n in (1, 2))
    batch = {"images": Batch(views, torch.arange(4))}
    found = method(batch)
    with torch.no_grad():
        rows = assignments(method.teacher(views[1]), method.prototypes, 0.1).double().tolist()
    targets = [[p ** (1 / 0.25) for p in row] for row in rows]
    targets = [[p / sum(row) for p in row] for row in targets]
    kept = method.draw(batch)["kept"]
    patches = patch_pixels(views[0], 4)[torch.arange(4)[:, None], kept]
    z = method.projector(method.backbone(patches, kept)[:, 0])
    anchors = assignments(z, method.prototypes, 0.1).double().tolist()
    cross = sum(-dot(t, [math.log(p) for p in a]) for t, a in zip(targets, anchors, strict=True)) / 4
    mean = [sum(column) / 4 for column in zip(*anchors, strict=True)]
    entropy = -sum(p * math.log(p) for p in mean)
    assert found.total.item() == pytest.approx(cross - 3 * entropy, rel=1e-3)


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 0.996), (0.25, 0.997), (1.0, 1.0)])
def test_the_teachers_momentum_rises_in_a_line(progress: float, expected: float) -> None:
    assert linear_momentum(0.996, progress) == pytest.approx(expected, abs=1e-12)


# --- TiCo ---------------------------------------------------------------------------------------------------------


def test_ticos_step_weighs_the_covariance_by_rho() -> None:
    torch.manual_seed(0)
    method = TiCoMethod(TiCo(hidden=16, projection=4, covariance=8.0), ModelConfig(name="wrn_10_0.5"))
    views = tuple(normal(n, 6, 3, 16, 16) for n in (1, 2))
    found = method({"images": Batch(views, torch.arange(6))})
    z, key = method.projector(method.backbone(views[0])), method.slow(views[1])
    agreement, contrast = tico_terms(z, key, method.covariance)
    assert found.total.item() == pytest.approx(float(agreement) + 8 * float(contrast), rel=1e-4)


def test_tico_is_equation_4_and_lightlys() -> None:
    query, key, before = normal(0, 6, 4), normal(1, 6, 4), normal(2, 4, 4)
    before = before @ before.T / 10
    z, other = ([unit(row) for row in rows.double().tolist()] for rows in (query, key))
    c = [[0.9 * float(before[i, j]) + 0.1 * sum(r[i] * r[j] for r in z) / 6 for j in range(4)] for i in range(4)]
    covariance = next_covariance(before, query, 0.9)
    torch.testing.assert_close(covariance, torch.tensor(c), rtol=1e-4, atol=1e-6)
    agreement, contrast = tico_terms(query, key, covariance)
    assert float(agreement) == pytest.approx(sum(1 - dot(a, b) for a, b in zip(z, other, strict=True)) / 6, rel=1e-5)
    quadratic = [sum(r[i] * c[i][j] * r[j] for i in range(4) for j in range(4)) for r in z]
    assert float(contrast) == pytest.approx(sum(quadratic) / 6, rel=1e-4)
    losses: Any = pytest.importorskip("lightly.loss")
    theirs = losses.TiCoLoss(beta=0.9, rho=8.0)
    theirs.C = before.clone()
    torch.testing.assert_close(agreement + 8 * contrast, theirs(query, key), rtol=1e-4, atol=1e-4)


# --- W-MSE --------------------------------------------------------------------------------------------------------


def test_whitened_rows_are_centred_uncorrelated_and_of_unit_variance() -> None:
    z = normal(0, 3, 40, 4) @ normal(1, 4, 4) + 2
    white = whiten(z).double()
    torch.testing.assert_close(white.mean(1), torch.zeros(3, 4, dtype=torch.float64), atol=1e-5, rtol=0)
    covariance = white.mT @ white / 39
    torch.testing.assert_close(covariance, torch.eye(4, dtype=torch.float64).expand(3, 4, 4), atol=1e-4, rtol=0)


def test_w_mse_is_equation_4_over_groups() -> None:
    views, order, rows = normal(2, 3, 12, 2), torch.randperm(12, generator=torch.Generator().manual_seed(0)), 6
    whole = []
    for view in views.double().numpy():
        shuffled, parts = view[order.numpy()], []
        for group in (shuffled[:6], shuffled[6:]):
            centred = group - group.mean(0)
            factor = np.linalg.cholesky(centred.T @ centred / 5)
            parts += [unit(np.linalg.solve(factor, row).tolist()) for row in centred]
        whole.append(parts)
    terms = []
    for a, b in ((0, 1), (0, 2), (1, 2)):
        terms += [sum((x - y) ** 2 for x, y in zip(u, v, strict=True)) for u, v in zip(whole[a], whole[b], strict=True)]
    assert float(whitened_error(views, order, rows)) == pytest.approx(sum(terms) / len(terms), rel=1e-4)


# --- DINOv3's Gram anchoring, iBOT's centring ---------------------------------------------------------------------


def test_gram_anchoring_compares_the_cosines_between_patches() -> None:
    student, anchor = normal(0, 2, 5, 3), normal(1, 2, 5, 3)
    terms = []
    for ours, theirs in zip(student.double().tolist(), anchor.double().tolist(), strict=True):
        for i in range(5):
            for j in range(5):
                cosines = (dot(unit(rows[i]), unit(rows[j])) for rows in (ours, theirs))
                a, b = cosines
                terms.append((a - b) ** 2)
    assert float(gram_loss(student, anchor)) == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    turned = student @ torch.linalg.qr(normal(2, 3, 3))[0]
    assert float(gram_loss(turned, student)) == pytest.approx(0, abs=1e-10)  # a turned space is as good


def anchored(**more: Any) -> DINOv2Method:
    torch.manual_seed(0)
    recipe = DINOv2(prototypes=12, hidden=16, bottleneck=8, gram=2.0, gram_from=0.5, **more)
    return DINOv2Method(recipe, ModelConfig(name="vit_32x2_4", grid=4))


def test_the_gram_teacher_is_the_teacher_of_the_steps_it_is_taken_at() -> None:
    method = anchored(gram_every=3)
    taken = []
    for step in range(12):
        with torch.no_grad():
            method.teacher.cls_token.fill_(float(step))
        method.before_step(StepInfo(step, step / 12, 0.0))
        assert method.anchored == (step >= 6)
        assert method.anchor is not None
        taken.append(float(method.anchor.cls_token.detach().mean()))
    assert taken[6:] == [6, 6, 6, 9, 9, 9]
    resumed = anchored(gram_every=3)
    resumed.load_state_dict(method.state_dict())
    resumed.before_step(StepInfo(11, 11 / 12, 0.0))
    assert resumed.anchored and resumed.anchor is not None and float(resumed.anchor.cls_token.detach().mean()) == 9


def test_the_anchored_loss_is_dinov2s_plus_the_gram_term_and_reaches_all_patches() -> None:
    method = anchored()
    with torch.no_grad():
        for weight in method.anchor.parameters():  # type: ignore[union-attr]
            weight.add_(0.1 * torch.randn_like(weight))
    images = normal(0, 2, 8, 3, 16, 16)
    batch = {"images": Batch((images[0], images[1]), torch.arange(8))}
    method.before_step(StepInfo(1, 0.1, 0.0))
    before = method(batch)
    assert "gram" not in before.parts
    kept = [weight.clone() for weight in method.anchor.parameters()]  # type: ignore[union-attr]
    method.anchored = True
    found = method(batch)
    assert all(torch.equal(a, b) for a, b in zip(kept, method.anchor.parameters(), strict=True))  # type: ignore[union-attr]
    for name in ("dino", "ibot", "koleo"):
        torch.testing.assert_close(found.parts[name], before.parts[name])
    torch.testing.assert_close(found.total, before.total + 2 * found.parts["gram"])
    both, masked = torch.cat(list(images)), method._masks(batch["images"], 4)
    x = method.backbone.every_token(both, masked, method.mask_token)[1]
    torch.testing.assert_close(found.parts["gram"], gram_loss(x, method.anchor.tokens(both)[1]).detach())  # type: ignore[union-attr]


def test_ibots_targets_are_centred_by_means_of_past_batches() -> None:
    torch.manual_seed(0)
    recipe = DINOv2(prototypes=3, hidden=8, bottleneck=4, centering="mean", center_momentum=0.75, shared_head=True)
    method = DINOv2Method(recipe, ModelConfig(name="vit_32x2_4", grid=4))
    assert len(method.heads) == len(method.teacher_heads) == 1
    center, rows = [0.0] * 3, [normal(n, 4, 3) for n in range(3)]
    for outputs in rows:
        expected = []
        for row in outputs.double().tolist():
            scores = [math.exp((x - c) / 0.05) for x, c in zip(row, center, strict=True)]
            expected.append([s / sum(scores) for s in scores])
        torch.testing.assert_close(method._targets(outputs, 1, 0.05), torch.tensor(expected), rtol=1e-3, atol=1e-5)
        mean = outputs.double().mean(0).tolist()
        center = [0.75 * c + 0.25 * m for c, m in zip(center, mean, strict=True)]
    torch.testing.assert_close(method.centers[1], torch.tensor(center), rtol=1e-4, atol=1e-6)
    assert not method.centers[0].any()


# --- DenseCL ------------------------------------------------------------------------------------------------------


def test_densecl_is_moco_on_images_and_on_places_of_the_best_match() -> None:
    torch.manual_seed(0)
    recipe = DenseCL(queue=6, projection=4, dense=0.3)
    method = DenseCLMethod(recipe, ModelConfig(name="wrn_10_0.5")).double()
    method.queues.float()
    views = tuple(normal(5, 2, 3, 3, 8, 8).double())
    captured: list[tuple[torch.Tensor, torch.Tensor]] = []
    for backbone in (method.backbone, method.slow[0]):
        backbone.register_forward_hook(lambda m, i, o: captured.append((o.detach(), o.detach())))  # type: ignore[arg-type]
    queues = [queue.rows.clone() for queue in method.queues]  # type: ignore[union-attr, operator]
    found = method({"images": Batch(views, torch.arange(3))})
    (query_maps, _), (key_maps, _) = captured
    heads, slow = method.heads, method.slow[1]
    side = query_maps.shape[2]

    def embedded(own: Any, maps: torch.Tensor, image: int) -> tuple[list[float], list[list[float]], list[list[float]]]:
        places = [maps[image, :, y, x] for y in range(side) for x in range(side)]
        first, _, last = own.places
        dense = []
        for place in places:
            hidden = torch.relu(first.weight[:, :, 0, 0] @ place + first.bias)
            dense.append(unit((last.weight[:, :, 0, 0] @ hidden + last.bias).tolist()))
        pooled = own.image(torch.stack(places).mean(0))
        return unit(pooled.tolist()), dense, [unit(place.tolist()) for place in places]

    def entropy(q: list[float], k: list[float], queue: torch.Tensor) -> float:
        scores = [dot(q, k) / 0.2] + [dot(q, row) / 0.2 for row in queue.double().tolist()]
        return math.log(sum(math.exp(s) for s in scores)) - scores[0]

    image_terms, place_terms, means = [], [], []
    with torch.no_grad():
        for image in range(3):
            q, dense_q, features_q = embedded(heads, query_maps, image)
            k, dense_k, features_k = embedded(slow, key_maps, image)
            image_terms.append(entropy(q, k, queues[0]))
            for place, feature in enumerate(features_q):
                match = max(range(side * side), key=lambda j: dot(feature, features_k[j]))
                place_terms.append(entropy(dense_q[place], dense_k[match], queues[1]))
            means.append(unit([sum(row[d] for row in dense_k) for d in range(4)]))
    assert float(found.parts["image_loss"]) == pytest.approx(sum(image_terms) / 3, rel=1e-4)
    assert float(found.parts["dense_loss"]) == pytest.approx(sum(place_terms) / len(place_terms), rel=1e-4)
    assert float(found.total) == pytest.approx(
        0.7 * sum(image_terms) / 3 + 0.3 * sum(place_terms) / len(place_terms), rel=1e-4
    )
    pushed = method.queues[1].rows[:3]  # type: ignore[index, union-attr]
    torch.testing.assert_close(pushed.double(), torch.tensor(means, dtype=torch.float64), rtol=1e-4, atol=1e-5)


def test_densecls_weight_of_the_places_rises_over_the_warmup() -> None:
    method = DenseCLMethod(DenseCL(queue=6, projection=4, warmup=0.5), ModelConfig(name="wrn_10_0.5"))
    batch = {"images": Batch(tuple(normal(5, 2, 3, 3, 8, 8)), torch.arange(3))}
    for progress, expected in ((0.0, 0.0), (0.25, 0.25), (0.5, 0.5), (0.9, 0.5)):
        method.before_step(StepInfo(1, progress, 0.0))
        assert float(method.draw(batch)["weight"]) == pytest.approx(expected)


def test_batches_that_cannot_be_whitened_in_groups_are_told_before_a_run() -> None:
    with pytest.raises(ValueError, match=r"batch_size: must be a multiple of method\.whitened, the 8 images"):
        dataclasses.replace(CONFIGS["w_mse"], batch_size=12)
