"""Distillation, joint training, mixtures and adversarial training against literal transcriptions in float64."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sslscale.data import mix, rng
from sslscale.data.batch import Batch
from sslscale.losses import distillation_loss
from sslscale.methods.deit import DeiT
from sslscale.methods.deit.method import teacher_loss
from sslscale.methods.joint_training import JointTraining
from sslscale.methods.knowledge_distillation import KnowledgeDistillation
from sslscale.methods.knowledge_distillation.method import virtual_teacher_loss
from sslscale.methods.method import ClassifierMethod, StepInfo, TaughtMethod, build_method
from sslscale.methods.supervised import Supervised
from sslscale.nn.classifier import build_classifier
from sslscale.nn.heads import MeanOfHeads
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.train import TrainConfig
from tests.numerics.literal import Fixed, entropy, hot, rows, softmax

K = 5
MODEL = ModelConfig(name="wrn_10_0.5")


def made(recipe: Any, network: nn.Module | None = None) -> ClassifierMethod:
    torch.manual_seed(0)
    method = build_method(recipe, MODEL, K)
    assert isinstance(method, ClassifierMethod)
    method.prepare({"labeled": 20}, TrainConfig(method=recipe, model=MODEL, image=ImageConfig(size=8), num_steps=9))
    method.network = network or Fixed()  # type: ignore[assignment]
    method.before_step(StepInfo(4, 0.5, 1.0))
    return method.train()


def image(logits: Tensor) -> Tensor:
    return logits.float()[:, None, None, :].expand(-1, 3, 1, -1)


def batch(seed: int = 0) -> tuple[dict[str, Batch], Tensor]:
    g = torch.Generator().manual_seed(seed)
    z, teacher = (torch.randn(6, K, generator=g, dtype=torch.float64) * 2 for _ in range(2))
    soft = torch.softmax(torch.randn(9, K, generator=g), 1)
    label = torch.randint(0, K, (6,), generator=g)
    found = {
        "labeled": Batch((image(z),), torch.arange(6), {"label": label, "teacher_logits": teacher.float()}),
        "pseudo": Batch((image(torch.randn(9, K, generator=g)),), torch.arange(9), {"soft_label": soft}),
    }
    return found, teacher


def divergence(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_knowledge_distillation() -> None:
    found, teacher = batch()
    labeled = found["labeled"]
    z = rows(labeled.views[0])
    t = 4.0
    taught = sum(
        t * t * divergence(softmax(b, t), softmax(a, t)) for a, b in zip(z, teacher.tolist(), strict=True)
    ) / len(z)
    known = sum(entropy(hot(y), a) for a, y in zip(z, labeled.label.tolist(), strict=True)) / len(z)
    method = made(KnowledgeDistillation(alpha=0.7, temperature=t))
    assert float(method(found).total) == pytest.approx(0.3 * known + 0.7 * taught, rel=1e-5)


def test_a_teacher_sees_the_students_view_and_stays_as_it_is() -> None:
    found, _ = batch()
    found = {"labeled": dataclasses.replace(found["labeled"], fields={"label": found["labeled"].label})}
    method = made(KnowledgeDistillation())
    assert isinstance(method, TaughtMethod)

    class Doubled(Fixed):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            assert not self.training
            return self.scale * super().forward(x)

    method.teach(Doubled())
    method.train()
    logits = found["labeled"].views[0][:, 0, 0, :]
    torch.testing.assert_close(method.teacher_logits(found["labeled"]), 2 * logits)
    assert not any(p.requires_grad for p in method.teacher.parameters())  # type: ignore[union-attr]


def test_the_virtual_teacher_is_uniform_over_other_classes() -> None:
    found, _ = batch()
    labeled = found["labeled"]
    total = 0.0
    for z, y in zip(rows(labeled.views[0]), labeled.label.tolist(), strict=True):
        probs = [0.99 if k == y else 0.01 / (K - 1) for k in range(K)]
        total += divergence(softmax(probs, 20.0), softmax(z, 20.0))
    logits = labeled.views[0][:, 0, 0, :]
    assert float(virtual_teacher_loss(logits, labeled.label, 0.99, 20.0)) == pytest.approx(total / 6, rel=1e-4)
    method = made(KnowledgeDistillation(alpha=0.5, temperature=20.0, virtual=True))
    losses = method(found)
    assert float(losses.parts["teacher_loss"]) == pytest.approx(total / 6, rel=1e-4)


@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_deit(mode: Any) -> None:
    torch.manual_seed(0)
    model = ModelConfig(name="vit_32x2_2", grid=4, distillation_token=True)
    method = build_method(DeiT(mode=mode, label_smoothing=0.0), model, K)
    g = torch.Generator().manual_seed(0)
    images, teacher = torch.randn(6, 3, 8, 8, generator=g), torch.randn(6, K, generator=g) * 2
    label = torch.randint(0, K, (6,), generator=g)
    network = method.result
    assert isinstance(network.head, MeanOfHeads)
    first, second = network.head.each(network.backbone(images))  # type: ignore[operator]
    assert not torch.allclose(first, second)
    torch.testing.assert_close(network(images), (first + second) / 2)
    known = sum(entropy(hot(y), z) for z, y in zip(first.double().tolist(), label.tolist(), strict=True)) / 6
    taught = 0.0
    for z, t in zip(second.double().tolist(), teacher.double().tolist(), strict=True):
        if mode == "hard":
            taught += entropy(hot(max(range(K), key=lambda k, t=t: t[k])), z) / 6
        else:
            taught += 9 * divergence(softmax(t, 3.0), softmax(z, 3.0)) / 6
    weight = 0.5 if mode == "hard" else 0.1
    loss = method({"labeled": Batch((images,), torch.arange(6), {"label": label, "teacher_logits": teacher})}).total
    assert loss.item() == pytest.approx((1 - weight) * known + weight * taught, rel=1e-4)
    assert teacher_loss(second, teacher, mode, 3.0).item() == pytest.approx(taught, rel=1e-4)


def test_a_distilled_vit_takes_images_of_another_resolution() -> None:
    network = build_classifier(ModelConfig(name="vit_32x2_2", grid=4, distillation_token=True, registers=2), K)
    assert network(torch.randn(2, 3, 8, 8)).shape == network(torch.randn(2, 3, 12, 12)).shape == (2, K)
    cls, patches = network.backbone.tokens(torch.randn(2, 3, 8, 8))  # type: ignore[operator]
    assert cls.shape == (2, 32) and patches.shape == (2, 16, 32)
    assert network.backbone.attention(torch.randn(2, 3, 8, 8)).shape[-2:] == (4, 4)  # type: ignore[operator]


def test_joint_training_scales_the_second_loss_to_the_first() -> None:
    method = made(JointTraining(weight=0.5, momentum=0.9))
    means: list[float] = []
    for seed in range(3):
        found, _ = batch(seed)
        labeled, pseudo = found["labeled"], found["pseudo"]
        known = sum(entropy(hot(y), z) for z, y in zip(rows(labeled.views[0]), labeled.label.tolist(), strict=True)) / 6
        soft_labels = pseudo.soft_label.double().tolist()
        taught = sum(entropy(t, z) for z, t in zip(rows(pseudo.views[0]), soft_labels, strict=True)) / 9
        now = [known, taught]
        means = now if not means else [0.9 * m + 0.1 * n for m, n in zip(means, now, strict=True)]
        total = (known + 0.5 * means[0] / means[1] * taught) / 1.5
        assert float(method(found).total) == pytest.approx(total, rel=1e-5)


def test_mixtures_of_a_batch() -> None:
    g = torch.Generator().manual_seed(0)
    images, labels = torch.rand(8, 3, 6, 6, generator=g), torch.eye(8)
    generator = np.random.default_rng(5)
    share, partner = generator.beta(0.4, 0.4), generator.permutation(8)
    found, targets = mix.mixed_batch(images, labels, mixup_alpha=0.4, cutmix_alpha=0.0, seed=5)
    for i in range(8):
        torch.testing.assert_close(found[i], (share * images[i] + (1 - share) * images[partner[i]]).float())
        torch.testing.assert_close(targets[i], (share * labels[i] + (1 - share) * labels[partner[i]]).float())
    found, targets = mix.mixed_batch(images, labels, mixup_alpha=0.0, cutmix_alpha=1.0, seed=5)
    generator = np.random.default_rng(5)
    generator.beta(1.0, 1.0)
    partner = generator.permutation(8)
    for i in range(8):
        own = (found[i] == images[i]).all(0)
        assert bool((own | (found[i] == images[partner[i]]).all(0)).all())
        if partner[i] != i:
            assert float(targets[i, i]) == pytest.approx(float(own.float().mean()), abs=1e-6)
    kinds = set()
    for seed in range(12):
        _, targets = mix.mixed_batch(images, labels, mixup_alpha=0.4, cutmix_alpha=1.0, seed=seed)
        kinds.add(bool(((targets * 36).round() - targets * 36).abs().max() < 1e-4))
    assert kinds == {True, False}


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_adversarial_images_are_worse_by_one_step_along_the_gradient(norm: Any) -> None:
    torch.manual_seed(0)
    weight = torch.randn(K, 12)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, K, bias=False))
    network[1].weight.data = weight
    method = made(Supervised(adversarial=0.4, epsilon=0.1, norm=norm, label_smoothing=0.0), network)
    images, label = torch.randn(6, 3, 2, 2), torch.arange(6) % K
    clean, worse = 0.0, 0.0
    for x, y in zip(images, label.tolist(), strict=True):
        z = (weight @ x.flatten()).tolist()
        clean += entropy(hot(y), z) / 6
        gradient = weight.T @ (torch.tensor(softmax(z)) - torch.eye(K)[y])
        step = gradient.sign() if norm == "linf" else gradient / gradient.norm()
        worse += entropy(hot(y), (weight @ (x.flatten() + 0.1 * step)).tolist()) / 6
    losses = method({"labeled": Batch((images,), torch.arange(6), {"label": label})})
    assert losses.total.item() == pytest.approx(0.6 * clean + 0.4 * worse, rel=1e-5) and worse > clean
    plain = Supervised(mixup=0.3, label_smoothing=0.0)
    mixed, target = mix.mixed_batch(
        images, torch.eye(K)[label], mixup_alpha=0.3, cutmix_alpha=0.0, seed=rng.stream_seed(0, "mixture 4")
    )
    expected = -(target * torch.log_softmax(network(mixed), 1)).sum(1).mean()
    torch.testing.assert_close(
        made(plain, network)({"labeled": Batch((images,), label, {"label": label})}).total, expected
    )


def test_distillation_from_itself_is_zero() -> None:
    z = torch.randn(4, K)
    assert float(distillation_loss(z, z, 3.0)) == pytest.approx(0, abs=1e-6)
