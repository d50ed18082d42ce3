"""Losses on mixed images, against slow, literal transcriptions of the papers' formulas, in float64."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sslscale.data import rng
from sslscale.data.batch import Batch
from sslscale.data.mix import mixup_with_all
from sslscale.methods.method import StepInfo, build_method
from sslscale.methods.mixmatch import MixMatch
from sslscale.methods.remixmatch import ReMixMatch
from sslscale.methods.remixmatch import method as remixmatch
from tests.configurations import CONFIGS
from tests.numerics.literal import (
    LABELED,
    UNLABELED,
    Fixed,
    K,
    batches,
    entropy,
    hot,
    made,
    rows,
    run,
    softmax,
)


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


def test_mixup_coefficients_favour_the_image_itself() -> None:
    images, labels = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 2, 2), torch.eye(8)
    ((mixed, found),) = mixup_with_all([(images, labels)], 0.75, 1)
    assert torch.equal(found.argmax(1), torch.arange(8)) and bool((found.amax(1) >= 0.5).all())
    torch.testing.assert_close(mixed[:, 0, 0, 0], found @ torch.arange(8.0))


def test_noisy_labels_are_replaced_for_the_same_images_in_every_epoch() -> None:
    config = CONFIGS["label_noise"]
    method: Any = build_method(config.method, config.model, 10)
    method.prepare({"labeled": 200}, config)
    count = 4000
    numbers = torch.arange(count)
    batch = Batch((torch.zeros(count, 3, 4, 4),), numbers, {"label": numbers % 10}, numbers)
    drawn = [method.draw({"labeled": batch})["noise"]]
    method.before_step(StepInfo(7, 0.5, 3.0))
    drawn.append(method.draw({"labeled": batch})["noise"])
    assert torch.equal(*drawn)
    replaced = drawn[0][:, 0] < 0.4
    assert abs(float(replaced.float().mean()) - 0.4) < 0.03
    other = (drawn[0][replaced, 1] * 10).long()
    assert torch.bincount(other, minlength=10).min() > 0.07 * len(other)
    few = Batch((torch.zeros(8, 3, 8, 8),), numbers[:8], {"label": numbers[:8] % 10}, numbers[:8])
    label = torch.where(replaced[:8], (drawn[0][:8, 1] * 10).long(), numbers[:8] % 10)
    logits = method.network(few.views[0]).double()
    expected = 0.0
    for row, target in zip(logits.tolist(), label.tolist(), strict=True):
        soft = [0.1 / 10 + 0.9 * (n == target) for n in range(10)]
        total = math.log(sum(math.exp(x) for x in row))
        expected -= sum(p * (x - total) for p, x in zip(soft, row, strict=True)) / 8
    assert float(method({"labeled": few}).total.detach()) == pytest.approx(expected, rel=1e-4)
