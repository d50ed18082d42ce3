"""Shuffle & Learn and frame interpolation: which frames are shown, and what the classes are."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sslscale.errors import ConfigError
from sslscale.methods.frame_interpolation import FrameInterpolation
from sslscale.methods.frame_interpolation.method import InterpolationTask
from sslscale.methods.odd_one_out import OddOneOut
from sslscale.methods.odd_one_out.method import OddTask
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


@pytest.mark.parametrize("encoding", ["differences", "frames"])
def test_one_sub_clip_is_out_of_order_and_the_others_are_not(encoding: Any) -> None:
    torch.manual_seed(0)
    settings = OddOneOut(questions=3, length=4, stride=2, encoding=encoding)
    task = OddTask(settings, 1)
    chosen, odd = task.questions(9, torch.rand(3000, 4))
    assert torch.bincount(odd, minlength=3).div(3000).tolist() == pytest.approx([1 / 3] * 3, abs=0.03)
    orders = set()
    for rows, which in zip(chosen.tolist(), odd.tolist(), strict=True):
        starts = [min(row) for row in rows]
        assert len(set(starts)) == 3 and all(0 <= s <= 2 for s in starts)
        for number, row in enumerate(rows):
            steps = [(x - min(row)) // 2 for x in row]
            assert sorted(row) == [min(row) + 2 * k for k in range(4)]
            assert (steps in ([0, 1, 2, 3], [3, 2, 1, 0])) == (number != which)
            assert number == which or steps == [0, 1, 2, 3]
            if number == which:
                orders.add(tuple(steps))
    assert len(orders) == 22
    with pytest.raises(ConfigError, match="clips of 8 frames hold no 3 different sub-clips: pack clips of 9 frames"):
        task.questions(8, torch.rand(1, 4))


@pytest.mark.parametrize("encoding", ["differences", "frames"])
@pytest.mark.parametrize("fusion", ["difference", "concatenation"])
def test_odd_one_out_is_cross_entropy_over_the_sub_clips(encoding: Any, fusion: Any) -> None:
    torch.manual_seed(0)
    task = OddTask(OddOneOut(questions=3, encoding=encoding, fusion=fusion, hidden=5), 1).double()
    view, draws = torch.randn(4, 6, 3, 2, 2, dtype=torch.float64), torch.rand(4, 4)
    chosen, odd = task.questions(6, draws)
    encode: Any = task.encode[0]
    total = 0.0
    for n in range(4):
        vectors = []
        for row in chosen[n].tolist():
            frames = [view[n, t] for t in row]
            if encoding == "frames":
                x = torch.stack([frame.mean() for frame in frames])
            else:
                gray = [frame.mean(0) for frame in frames]
                x = torch.stack([b - a for a, b in itertools.pairwise(gray)]).mean()[None]
            vectors.append((encode.weight @ x + encode.bias).clamp(min=0))
        if fusion == "concatenation":
            fused = torch.cat(vectors)
        else:
            fused = (vectors[0] - vectors[1]) + (vectors[0] - vectors[2]) + (vectors[1] - vectors[2])
        total -= float(F.log_softmax(task.head(fused), 0)[int(odd[n])])
    found = task(Mean(), view, draws).total
    assert float(found) == pytest.approx(total / 4, rel=1e-5)
