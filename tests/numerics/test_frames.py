"""Shuffle & Learn and frame interpolation: which frames are shown, and what the classes are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sslscale.methods.frame_interpolation import FrameInterpolation
from sslscale.methods.frame_interpolation.method import InterpolationTask
from sslscale.methods.shuffle_and_learn import ShuffleAndLearn
from sslscale.methods.shuffle_and_learn.method import OrderTask


class Mean(nn.Module):
    """One feature of a frame: its mean."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((1, 2, 3))[:, None]


def clips(count: int) -> torch.Tensor:
    """Frame t of clip n is 100 n + t everywhere."""
    return (100.0 * torch.arange(count)[:, None] + torch.arange(5)).view(count, 5, 1, 1, 1).expand(-1, -1, 3, 2, 2)


def test_triples_are_those_of_the_paper_forwards_or_backwards() -> None:
    torch.manual_seed(0)
    task = OrderTask(ShuffleAndLearn(spread=2, gap=1), 1)
    chosen, target = task.triples(clips(2000), torch.rand(2000, 5))  # of five frames one window is possible
    kinds = {tuple(x): 0 for x in ([1, 2, 3], [3, 2, 1], [1, 0, 3], [3, 0, 1], [1, 4, 3], [3, 4, 1])}
    for row, label in zip(chosen.tolist(), target.tolist(), strict=True):
        assert label == (row[1] == 2)
        kinds[tuple(row)] += 1
    shares = [count / 2000 for count in kinds.values()]
    assert shares[:2] == pytest.approx([0.125] * 2, abs=0.03) and shares[2:] == pytest.approx([0.1875] * 4, abs=0.03)


def test_the_loss_is_cross_entropy_of_features_side_by_side() -> None:
    torch.manual_seed(0)
    task, view, draws = OrderTask(ShuffleAndLearn(spread=2, gap=1), 1), clips(6) / 100, torch.rand(6, 5)
    chosen, target = task.triples(view, draws)
    head: Any = task.head[0]
    weight, bias = head.weight.detach().double(), head.bias.detach().double()
    total = 0.0
    for number, (row, label) in enumerate(zip(chosen.tolist(), target.tolist(), strict=True)):
        x = torch.tensor([number + frame / 100 for frame in row], dtype=torch.float64)
        total -= float(F.log_softmax(weight @ x + bias, 0)[label])
    losses = task(Mean(), view, draws)
    assert float(losses.total.detach()) == pytest.approx(total / 6, rel=1e-5)


def test_candidates_lie_between_outside_or_in_another_clip() -> None:
    torch.manual_seed(0)
    task, view = InterpolationTask(FrameInterpolation(spread=2, gap=1), 1), clips(3000)
    chosen, kind = task.triples(view, torch.rand(3000, 5))
    assert torch.bincount(kind, minlength=3).div(3000).tolist() == pytest.approx([0.5, 0.4, 0.1], abs=0.03)
    for row, which in zip(chosen.tolist(), kind.tolist(), strict=True):
        assert sorted(row[:2]) == [1, 3]
        assert row[2] in ((2,), (0, 4), (2,))[which]
    frames = view[torch.arange(3000)[:, None], chosen]
    features: Any = task._features(Mean(), frames, kind)
    foreign = kind == 2
    number = torch.arange(3000)
    torch.testing.assert_close(
        features[foreign, 2, 0], (100.0 * ((number + 1) % 3000) + chosen.roll(-1, 0)[:, 2])[foreign]
    )
    torch.testing.assert_close(features[~foreign, 2, 0], (100.0 * number + chosen[:, 2])[~foreign])
    losses = task(Mean(), view / 3000, torch.rand(3000, 5))
    parts = {name: float(value) for name, value in losses.parts.items()}
    mixed = 0.5 * parts["between_accuracy"] + 0.4 * parts["outside_accuracy"] + 0.1 * parts["foreign_accuracy"]
    assert parts["pretext_accuracy"] == pytest.approx(mixed, abs=0.03)
