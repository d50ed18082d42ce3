"""Noisy Student's loss, noise and schedules against slow, literal transcriptions in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sslscale.data.batch import Batch
from sslscale.evaluate.classify import calibration_error, measure, wilson
from sslscale.losses import sharpen, smooth_labels, soft_cross_entropy
from sslscale.methods.method import build_method
from sslscale.methods.noisy_student import NoisyStudent
from sslscale.methods.noisy_student.method import NoisyStudentMethod, student_loss
from sslscale.methods.supervised import Supervised
from sslscale.nn.ema import warm_momentum
from sslscale.nn.wide_resnet import StochasticDepth, WideResNet
from sslscale.settings.model import ModelConfig
from sslscale.settings.train import OptimConfig, ScheduleConfig
from sslscale.train.optim import build_optimizer, lr_share

K = 5


def literal_loss(
    labeled: np.ndarray, label: np.ndarray, pseudo: np.ndarray, target: np.ndarray, smoothing: float
) -> float:
    """Section 4.1: the average cross-entropy over the concatenated batch, one image and class at a time."""
    total = 0.0
    for i in range(len(labeled)):
        norm = math.log(sum(math.exp(z) for z in labeled[i]))
        for k in range(K):
            wanted = (1 - smoothing) * (k == label[i]) + smoothing / K
            total -= wanted * (labeled[i][k] - norm)
    for i in range(len(pseudo)):
        norm = math.log(sum(math.exp(z) for z in pseudo[i]))
        for k in range(K):
            total -= target[i][k] * (pseudo[i][k] - norm)
    return total / (len(labeled) + len(pseudo))


class Fixed(torch.nn.Module):
    """Stands where the network does and gives logits known beforehand: images are their own logits."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, 0, :]


def batches(seed: int = 0, labeled: int = 4, ratio: int = 3) -> tuple[dict[str, Batch], Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    first = torch.randn(labeled, K, generator=g, dtype=torch.float64) * 3
    second = torch.randn(labeled * ratio, K, generator=g, dtype=torch.float64) * 3
    soft = torch.softmax(torch.randn(labeled * ratio, K, generator=g, dtype=torch.float64), -1)
    label = torch.randint(0, K, (labeled,), generator=g)
    image = lambda z: z.float()[:, None, None, :].expand(-1, 3, 1, -1)  # noqa: E731
    made = {
        "labeled": Batch((image(first),), torch.arange(labeled), {"label": label}),
        "pseudo": Batch((image(second),), torch.arange(labeled * ratio), {"soft_label": soft.float()}),
    }
    return made, first, second


def method(**changes: object) -> NoisyStudentMethod:
    made = build_method(NoisyStudent(unlabeled_ratio=3, **changes), ModelConfig(name="wrn_10_0.5"), K)  # type: ignore[arg-type]
    assert isinstance(made, NoisyStudentMethod)
    made.network = Fixed()  # type: ignore[assignment]
    return made


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_papers_average(smoothing: float) -> None:
    batch, first, second = batches()
    losses = method(label_smoothing=smoothing)(batch)
    label, soft = batch["labeled"].label, batch["pseudo"].soft_label
    assert label is not None and soft is not None
    expected = literal_loss(first.numpy(), label.numpy(), second.numpy(), soft.double().numpy(), smoothing)
    assert float(losses.total) == pytest.approx(expected, rel=1e-6)


def test_hard_labels_are_the_teachers_argmax_smoothed() -> None:
    batch, first, second = batches(1)
    label, soft = batch["labeled"].label, batch["pseudo"].soft_label
    assert label is not None and soft is not None
    hard = np.full((12, K), 0.1 / K)
    hard[np.arange(12), soft.argmax(-1).numpy()] += 0.9
    expected = literal_loss(first.numpy(), label.numpy(), second.numpy(), hard, 0.1)
    assert float(method(soft_labels=False)(batch).total) == pytest.approx(expected, rel=1e-6)


def test_a_weight_of_its_own_and_the_authors_scaling() -> None:
    labeled, pseudo = torch.tensor([1.0, 3.0]), torch.tensor([4.0] * 6)
    assert float(student_loss(labeled, pseudo, None)) == pytest.approx((4 + 24) / 8)
    assert float(student_loss(labeled, pseudo, 0.0)) == 2.0
    authors = (2 * 2 + 4 * 6) / 2  # main.py: (lab_loss * B + unl_loss * 3 B) / B
    assert float(student_loss(labeled, pseudo, None)) * (1 + 3) == pytest.approx(authors)


def test_soft_targets_sharpen_to_the_formula() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2, 0.0, 0.0]])
    expected = p**2 / (p**2).sum()
    torch.testing.assert_close(sharpen(p, 0.5), expected, rtol=1e-5, atol=1e-7)
    assert sharpen(p, 1.0) is p


def test_closed_forms() -> None:
    uniform = torch.full((3, K), 1 / K)
    assert soft_cross_entropy(torch.zeros(3, K), uniform).tolist() == pytest.approx([math.log(K)] * 3)
    sure = torch.eye(K)[:3]
    assert soft_cross_entropy(sure * 200, sure).tolist() == pytest.approx([0] * 3, abs=1e-6)
    assert smooth_labels(torch.tensor([2]), K, 0.1).tolist()[0] == pytest.approx([0.02, 0.02, 0.92, 0.02, 0.02])


def test_no_gradient_reaches_the_pseudo_labels_or_the_average() -> None:
    batch, _, _ = batches()
    soft = batch["pseudo"].soft_label
    assert soft is not None and not soft.requires_grad
    trained = build_method(NoisyStudent(unlabeled_ratio=3, ema=0.9), ModelConfig(name="wrn_10_0.5"), K)
    images = torch.randn(16, 3, 8, 8)
    made = {
        "labeled": Batch((images[:4],), torch.arange(4), {"label": torch.arange(4)}),
        "pseudo": Batch((images[4:],), torch.arange(12), {"soft_label": soft}),
    }
    trained(made).total.backward()
    assert isinstance(trained, NoisyStudentMethod) and trained.average is not None
    assert all(p.grad is not None for p in trained.network.parameters())
    assert all(p.grad is None for p in trained.average.parameters())
    assert trained.result is trained.average


def test_the_average_is_the_recursion_with_the_ramp() -> None:
    made = build_method(Supervised(ema=0.99), ModelConfig(name="wrn_10_0.5"), K)
    network: Any = made.network
    followed = {"weight": next(network.parameters()), "variance": network.backbone.norm.running_var}
    expected = {name: tensor.detach().double().clone() for name, tensor in followed.items()}
    for step in range(1, 30):
        momentum = min(0.99, (1 + step) / (10 + step))
        for name, tensor in followed.items():
            with torch.no_grad():
                tensor.add_(torch.rand_like(tensor))
            expected[name] = momentum * expected[name] + (1 - momentum) * tensor.double()
        network.backbone.norm.num_batches_tracked.fill_(step)
        made.after_step(step, step / 30)
    average: Any = made.result
    torch.testing.assert_close(next(average.parameters()).double(), expected["weight"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(average.backbone.norm.running_var.double(), expected["variance"], rtol=1e-4, atol=1e-5)
    assert average.backbone.norm.num_batches_tracked == 29
    assert warm_momentum(0.99, 10**6) == 0.99


def test_stochastic_depth_survives_linearly_and_keeps_the_mean() -> None:
    network = WideResNet(28, 1, survival=0.8)
    kept = [block.depth.survival for block in network.blocks]  # type: ignore[union-attr]
    assert kept == pytest.approx([1 - (l + 1) / 12 * 0.2 for l in range(12)])  # noqa: E741
    assert kept[-1] == pytest.approx(0.8)
    torch.manual_seed(0)
    drop = StochasticDepth(0.8).train()
    out = drop(torch.ones(20_000, 1, 1, 1))
    assert set(out.flatten().tolist()) == {0.0, 1.25}
    assert float(out.mean()) == pytest.approx(1, abs=0.01)
    assert drop.eval()(out) is out


@pytest.mark.parametrize("name", ["timm:efficientnet_b0", "timm:resnet18"])
def test_timm_gets_the_linear_depth_rule_too(name: str) -> None:
    from timm.layers.drop import DropPath

    from sslscale.nn.classifier import build_classifier

    network = build_classifier(ModelConfig(name=name, survival=0.8, dropout=0.5), 7)
    rates = [float(m.drop_prob) for m in network.modules() if isinstance(m, DropPath)]
    assert len(rates) > 3 and rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.2, abs=0.03)
    assert network.dropout.p == 0.5


def test_schedules_by_their_formulas() -> None:
    cosine = ScheduleConfig(warmup_steps=10, final=0.1)
    assert [lr_share(cosine, s, 110) for s in (0, 9)] == pytest.approx([1 / 11, 10 / 11])
    for step in (10, 60, 109):
        t = (step - 10) / 100
        assert lr_share(cosine, step, 110) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * t)) / 2)
    steps = ScheduleConfig(name="step", milestones=(0.5, 0.75), decay=0.1)
    assert [lr_share(steps, s, 100) for s in (0, 49, 50, 74, 75)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    exponential = ScheduleConfig(name="exponential", decay=0.97, decay_steps=24)
    assert [lr_share(exponential, s, 100) for s in (23, 24, 99)] == pytest.approx([1, 0.97, 0.97**4])
    assert lr_share(ScheduleConfig(name="constant"), 77, 100) == 1
    fixmatch = ScheduleConfig(name="cosine_7_16")
    assert [lr_share(fixmatch, s, 64) for s in (0, 32, 64)] == pytest.approx(
        [1, math.cos(7 * math.pi / 32), math.cos(7 * math.pi / 16)]
    )


def test_vectors_are_not_decayed() -> None:
    made = build_method(Supervised(), ModelConfig(name="wrn_10_0.5"), K)
    for name in ("sgd", "adamw", "rmsprop"):
        groups = build_optimizer(made, OptimConfig(name=name, weight_decay=0.3)).param_groups
        assert [g["weight_decay"] for g in groups] == [0.3, 0.0]
        assert all(p.ndim > 1 for p in groups[0]["params"]) and all(p.ndim == 1 for p in groups[1]["params"])
        assert sum(len(g["params"]) for g in groups) == len(list(made.parameters()))


def test_measures_against_their_definitions() -> None:
    g = torch.Generator().manual_seed(0)
    probs = torch.softmax(torch.randn(400, K, generator=g) * 2, -1)
    label = torch.randint(0, K, (400,), generator=g)
    result = measure(probs, label, tuple("abcde"))
    right = [int(p.argmax()) == int(y) for p, y in zip(probs, label, strict=True)]
    assert result["accuracy"] == pytest.approx(sum(right) / 400)
    assert result["top5_accuracy"] == 1.0
    gap = 0.0
    for b in range(15):
        inside = [i for i in range(400) if b / 15 <= float(probs[i].max()) < (b + 1) / 15]
        if inside:
            accuracy = sum(right[i] for i in inside) / len(inside)
            confidence = sum(float(probs[i].max()) for i in inside) / len(inside)
            gap += len(inside) / 400 * abs(accuracy - confidence)
    assert result["ece"] == pytest.approx(gap, abs=1e-6)
    assert calibration_error(torch.ones(10), torch.ones(10, dtype=torch.bool)) == pytest.approx(0)
    assert np.asarray(result["confusion"]).trace() == sum(right)
    low, high = wilson(0.5, 100)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-4)
