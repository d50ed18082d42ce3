"""Tracking as supervision: patches that are followed, and the ranking loss, against literal transcriptions."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from sslscale.errors import ConfigError
from sslscale.methods.method import StepInfo, build_method
from sslscale.methods.tracking.method import ranking_loss
from sslscale.methods.tracking.tracks import crop, follow, most_motion, moving_share
from tests.configurations import CONFIGS, batch_of


def moving_square(shifts: list[tuple[int, int]], side: int = 32) -> torch.Tensor:
    """A textured square of 8 pixels that moves by these shifts (y, x), on noise that stays."""
    generator = torch.Generator().manual_seed(0)
    texture = torch.rand(8, 8, generator=generator) + 1
    frames, (y, x) = [], (10, 12)
    for dy, dx in [(0, 0), *shifts]:
        y, x = y + dy, x + dx
        frame = 0.1 * torch.rand(side, side, generator=torch.Generator().manual_seed(1))
        frame[y : y + 8, x : x + 8] = texture
        frames.append(frame)
    return torch.stack(frames)[None]


def test_a_patch_is_followed_as_by_a_search_of_all_places() -> None:
    shifts = [(1, 2), (-2, 1), (0, -3), (3, 3)]
    gray = moving_square(shifts)
    last = follow(gray, torch.tensor([[10, 12]]), 8, 3)
    assert last.tolist() == [[12, 15]]
    torch.manual_seed(0)
    random = torch.rand(3, 4, 12, 14)
    place = torch.tensor([[0, 0], [4, 5], [7, 9]])
    found = follow(random, place, 5, 2).tolist()
    for n, (y, x) in enumerate(place.tolist()):
        for t in range(3):
            patch = random[n, t, y : y + 5, x : x + 5]
            padded = torch.nn.functional.pad(random[n, t + 1][None, None], (2, 2, 2, 2), mode="replicate")[0, 0]
            costs = {}
            for dy in range(-2, 3):
                for dx in range(-2, 3):
                    other = padded[y + dy + 2 : y + dy + 7, x + dx + 2 : x + dx + 7]
                    costs[dy, dx] = float((other - patch).square().sum()) + 1e-4 * (dy * dy + dx * dx)
            dy, dx = min(costs, key=lambda shift: costs[shift])
            y, x = min(max(y + dy, 0), 7), min(max(x + dx, 0), 9)
        assert found[n] == [y, x]
    still = torch.zeros(1, 3, 12, 12)
    assert follow(still, torch.tensor([[3, 4]]), 5, 2).tolist() == [[3, 4]]


def test_the_patch_with_the_most_motion_is_taken() -> None:
    gray = moving_square([(0, 1), (0, -1)])
    y, x = most_motion(gray, 10)[0].tolist()
    assert y <= 10 and y + 10 >= 18 and x <= 12 and x + 10 >= 21  # all that changes
    assert crop(gray[:, :1], torch.tensor([[10, 12]]), 8).shape == (1, 1, 8, 8)


def test_the_share_of_moving_points_tells_the_camera_from_an_object() -> None:
    torch.manual_seed(0)
    scene = torch.rand(1, 1, 40, 40)
    still = scene.repeat(1, 3, 1, 1)
    camera = torch.stack([scene[:, 0].roll(2 * t, 2) for t in range(3)], 1)
    thing = still.clone()
    for t in range(3):
        thing[:, t, 10:30, 10:30] = scene[:, 0, 10:30, 10:30].roll(t, 2)
    assert float(moving_share(still)) == 0 and float(moving_share(camera)) > 0.75
    assert 0.1 < float(moving_share(thing)) < 0.5


@pytest.mark.parametrize("hard", [0.0, 1.0])
def test_the_ranking_loss_is_that_of_the_paper(hard: float) -> None:
    torch.manual_seed(0)
    queries, every = (torch.nn.functional.normalize(torch.randn(6, 5), dim=1) for _ in range(2))
    videos, drawn = torch.tensor([0, 0, 1, 2, 3, 4]), torch.tensor([1, 2, 3, 4, 5, 0])
    foreign = videos[None] != videos[:, None]
    loss, active, usable = ranking_loss(queries, every, every, drawn, foreign, torch.tensor([hard]), 0.5, 3)
    for n in range(6):
        q = queries[n].double()
        near = 1 - float(q @ every[n].double())
        terms = {
            m: max(0.0, near - (1 - float(q @ every[m].double())) + 0.5) for m in range(6) if videos[m] != videos[n]
        }
        if hard:
            worst = sorted(terms.values())[-3:]
            assert usable[n] and float(loss[n]) == pytest.approx(sum(worst) / 3, abs=1e-6)
            assert float(active[n]) == pytest.approx(sum(x > 0 for x in worst) / 3)
        elif int(drawn[n]) in terms:
            assert usable[n] and float(loss[n]) == pytest.approx(terms[int(drawn[n])], abs=1e-6)
        else:
            assert not usable[n]
    alone = torch.zeros(6, 6, dtype=torch.bool)
    assert not ranking_loss(queries, every, every, drawn, alone, torch.tensor([hard]), 0.5, 3)[2].any()


def test_clips_without_moving_points_are_left_out() -> None:
    config = CONFIGS["tracking"]
    settings: Any = config.method
    method: Any = build_method(dataclasses.replace(settings, moving=(0.25, 0.75)), config.model, 10)
    method.prepare({"images": 200}, config)
    method.before_step(StepInfo(0, 0.0, 0.0))
    batch = batch_of(config, "images", 6, 0)
    still = dataclasses.replace(batch, views=(batch.views[0][:, :1].expand(-1, 5, -1, -1, -1).contiguous(),))
    losses = method({"images": still})
    assert float(losses.total) == 0 and float(losses.parts["kept"]) == 0
    large = build_method(dataclasses.replace(settings, patch=8), config.model, 10)
    with pytest.raises(ConfigError, match="have no room to move"):
        large.prepare({"images": 200}, config)
