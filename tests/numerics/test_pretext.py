"""Pretext tasks against slow, literal transcriptions of their papers in float64."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sslscale.data.lab import ab_bins, lab_to_rgb, rgb_to_lab
from sslscale.errors import ConfigError, DataError
from sslscale.methods.colorization import Colorization
from sslscale.methods.colorization.method import (
    ColorizationTask,
    annealed_mean,
    class_weights,
    colorization_loss,
    soft_bins,
)
from sslscale.methods.inpainting import Inpainting
from sslscale.methods.inpainting.method import InpaintingTask, reconstruction_loss
from sslscale.methods.jigsaw import Jigsaw
from sslscale.methods.jigsaw_plus_plus import JigsawPlusPlus
from sslscale.methods.method import StepInfo, build_method
from sslscale.methods.multi_pretext import MultiPretext, PretextTask
from sslscale.methods.puzzle import JigsawTask
from sslscale.methods.relative_position import RelativePosition
from sslscale.methods.relative_position.method import RelativePositionTask, hide_colours, neighbours
from sslscale.methods.rotation import Rotation
from sslscale.methods.rotation.method import RotationTask, all_turns
from sslscale.nn.maps import Decoder
from sslscale.nn.permutations import STORED, checksum, choose, distances, permutations
from sslscale.settings.method import Pretext
from sslscale.settings.model import ImageConfig
from sslscale.train.engine import Engine
from sslscale.train.meter import Meter
from tests.configurations import CONFIG, CONFIGS, batch_of, of

CPU = torch.device("cpu")


def cross_entropy(logits: list[float], target: int) -> float:
    return math.log(sum(math.exp(x) for x in logits)) - logits[target]


class Flat(torch.nn.Module):
    """A network whose features are the image's mean colours and its upper left corner's."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean((2, 3)), x[:, :, 0, 0]], 1)


# --- rotation ---------------------------------------------------------------------------------------------------


def test_rotation_is_the_mean_over_all_four_turns_of_every_image() -> None:
    torch.manual_seed(0)
    view = torch.randn(3, 3, 5, 5)
    task = RotationTask(Rotation(), 6)
    losses = task(Flat(), view, torch.zeros(3, 1))
    weight, bias = task.head.weight.detach().double(), task.head.bias.detach().double()
    total = 0.0
    for image, turns in itertools.product(view.double().numpy(), range(4)):
        turned = np.rot90(image, turns, (1, 2))
        features = [*turned.mean((1, 2)), *turned[:, 0, 0]]
        logits = [
            float(sum(w * f for w, f in zip(row, features, strict=True)) + b)
            for row, b in zip(weight, bias, strict=True)
        ]
        total += cross_entropy(logits, turns)
    assert float(losses.total.detach()) == pytest.approx(total / 12, rel=1e-5)
    # a quarter turn and back is the image, bit for bit: nothing is interpolated
    assert torch.equal(torch.rot90(all_turns(view)[3:6], -1, (2, 3)), view)


# --- relative position ------------------------------------------------------------------------------------------


def test_pairs_are_all_neighbours_in_both_directions() -> None:
    first, second, labels = neighbours("all")
    assert len(first) == 40  # 12 side by side and 8 diagonal ones, both ways
    around = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
    for a, b, label in zip(first, second, labels, strict=True):
        assert (b // 3 - a // 3, b % 3 - a % 3) == around[label]
    assert neighbours("centre") == ([4] * 8, [0, 1, 2, 3, 5, 6, 7, 8], list(range(8)))


def test_patches_lie_a_gap_apart_and_move_by_their_jitter() -> None:
    task = RelativePositionTask(RelativePosition(patch=0.25, gap=8 / 96, jitter=3 / 96), 6)
    ramp = torch.stack([torch.arange(96.0).expand(96, 96), torch.arange(96.0).expand(96, 96).T, torch.zeros(96, 96)])
    corners = []
    for seed in range(60):
        draws = torch.rand(1, task.num_draws + 1, generator=torch.Generator().manual_seed(seed))
        patches = task.patches(ramp[None], draws)
        assert patches.shape == (9, 3, 24, 24)
        corners.append(patches[:, :2, 0, 0])
    found = torch.stack(corners)
    cell = torch.tensor([[32.0 * (n % 3), 32.0 * (n // 3)] for n in range(9)])
    moved = found - cell - 4
    assert moved.min() == -3 and moved.max() == 3
    assert set(moved.flatten().tolist()) == set(range(-3, 4))


def test_one_channel_is_kept_less_its_mean_and_the_others_are_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    patches = torch.rand(4, 3, 6, 6, generator=generator, dtype=torch.float64)
    noise = torch.rand(4, 3, 6, 6, generator=generator, dtype=torch.float64) - 0.5
    found = hide_colours(patches, torch.tensor([0, 2, 1, 1]), noise)
    for patch, random, channel, mine in zip(patches, noise, (0, 2, 1, 1), found, strict=True):
        expected = random.clone()
        expected[channel] = patch[channel] - patch[channel].mean()
        rms = math.sqrt(float((expected**2).sum()) / expected.numel())
        torch.testing.assert_close(mine, expected / (rms + 1e-5))


def test_a_pair_is_told_from_both_patches_in_their_order() -> None:
    torch.manual_seed(0)
    task = RelativePositionTask(RelativePosition(tile=4, hidden=5, colours="keep", shrink=0.0), 6).eval().double()
    patches = torch.randn(2 * 9, 3, 8, 8, dtype=torch.float64)
    logits, features = task.logits(Flat(), patches)
    tiles = task.tile(features)
    pairs = itertools.product(range(2), zip(*neighbours("all"), strict=True))
    for row, (image, (a, b, _)) in enumerate(pairs):
        both = torch.cat([tiles[9 * image + a], tiles[9 * image + b]])
        torch.testing.assert_close(logits[row], task.pair(both[None])[0])


# --- jigsaw -----------------------------------------------------------------------------------------------------


def test_each_permutation_is_the_farthest_from_those_before_it() -> None:
    every = [np.array(p) for p in itertools.permutations(range(9))]
    table = np.stack(every)
    for choice in ("mean", "least"):
        chosen = choose(4, choice)
        for count in (1, 2, 3):
            apart = np.stack([(table != one).sum(1) for one in chosen[:count]])
            score = apart.mean(0) if choice == "mean" else apart.min(0)
            if choice == "mean":  # none comes twice
                score = np.where((apart == 0).any(0), -1, score)
            assert (every[int(score.argmax())] == chosen[count]).all()


@pytest.mark.parametrize("file", sorted(STORED.glob("*.npy")), ids=lambda f: f.stem)
def test_stored_sets_are_what_their_notes_say(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    choice, count = file.stem.split("-")
    chosen, about = np.load(file), json.loads(file.with_suffix(".json").read_text())
    assert len(chosen) == int(count) == len({tuple(row) for row in chosen})
    assert all(sorted(row) == list(range(9)) for row in chosen.tolist())
    mean, least = distances(chosen)
    assert (round(mean, 4), least, checksum(chosen)) == (
        about["mean_distance"],
        about["least_distance"],
        about["sha256"],
    )
    if int(count) <= 100:
        assert (choose(int(count), choice) == chosen).all()  # pyright: ignore[reportArgumentType]
    spoilt = chosen.copy()
    spoilt[0] = spoilt[0][::-1]
    np.save(tmp_path / file.name, spoilt)
    (tmp_path / file.with_suffix(".json").name).write_text(file.with_suffix(".json").read_text())
    monkeypatch.setattr("sslscale.nn.permutations.STORED", tmp_path)
    permutations.cache_clear()
    with pytest.raises(DataError, match="checksum"):
        permutations(int(count), choice)  # pyright: ignore[reportArgumentType]
    permutations.cache_clear()


def test_a_puzzle_shows_the_tiles_in_the_order_of_its_class() -> None:
    task = JigsawTask(Jigsaw(permutations=20, gray=0.0, channel_jitter=0), 6)
    cells = torch.arange(9.0).view(3, 3).repeat_interleave(9, 0).repeat_interleave(9, 1) / 9
    view = cells.expand(16, 3, 27, 27)
    draws = torch.rand(16, task.num_draws + 1, generator=torch.Generator().manual_seed(0))
    tiles, target = task.puzzle(view, draws)
    assert tiles.shape == (16, 9, 3, 7, 7) and len(set(target.tolist())) > 5
    for image, label in zip(tiles, target.tolist(), strict=True):
        assert [round(float(tile.mean() * 9)) for tile in image] == permutations(20, "mean")[label].tolist()


def test_channels_are_moved_against_each_other_within_the_cell() -> None:
    task = JigsawTask(Jigsaw(permutations=20, gray=0.0, channel_jitter=2), 6)
    ramp = torch.arange(27.0).expand(27, 27) / 27
    draws = torch.rand(64, task.num_draws + 1, generator=torch.Generator().manual_seed(0))
    tiles, target = task.puzzle(ramp.expand(64, 3, 27, 27), draws)
    columns = (tiles[:, :, :, 0] * 27).round()  # which column each pixel of the first row is from
    apart = columns[:, :, 0, 0] - columns[:, :, 1, 0]
    assert set(apart.flatten().tolist()) == {-2, -1, 0, 1, 2}
    order = task.order[target]
    for image, places in zip(columns, order, strict=True):
        for tile, place in zip(image, places.tolist(), strict=True):
            assert (tile >= 9 * (place % 3)).all() and (tile < 9 * (place % 3) + 9).all()


def test_none_one_or_two_tiles_are_of_one_other_image_equally_often() -> None:
    task = JigsawTask(JigsawPlusPlus(permutations=20, gray=0.0, projection=0.0, channel_jitter=0), 6)
    cells = (torch.arange(9.0).view(3, 3).repeat_interleave(9, 0).repeat_interleave(9, 1) + 1) / 32
    view = torch.stack([cells + (number % 2) * 0.5 for number in range(600)])[:, None].expand(-1, 3, -1, -1)
    draws = torch.rand(600, task.num_draws + 1, generator=torch.Generator().manual_seed(0))
    tiles, target = task.puzzle(view, draws)
    means = tiles.mean((2, 3, 4))
    counts: Counter[int] = Counter()
    for number, (image, label) in enumerate(zip(means, target.tolist(), strict=True)):
        foreign = (image > 0.45) != bool(number % 2)
        counts[int(foreign.sum())] += 1
        places = ((image - 0.5 * (image > 0.45)) * 32 - 1).round().long()
        own = permutations(20, "least")[label]
        assert (places[~foreign] == torch.from_numpy(own.astype("int64"))[~foreign]).all()
        assert len(set(places[foreign].tolist())) == int(foreign.sum())
    assert set(counts) == {0, 1, 2} and all(150 < count < 250 for count in counts.values())


# --- colorization -----------------------------------------------------------------------------------------------


def literal_lab(rgb: list[float]) -> list[float]:
    linear = [((c + 0.055) / 1.055) ** 2.4 if c > 0.04045 else c / 12.92 for c in rgb]
    rows = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
    xyz = [sum(m * c for m, c in zip(row, linear, strict=True)) for row in rows]
    f = [
        t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116
        for t in (v / w for v, w in zip(xyz, (0.95047, 1.0, 1.08883), strict=True))
    ]
    return [116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])]


def test_lab_is_the_standards_and_comes_back() -> None:
    colours = torch.rand(50, 3, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = rgb_to_lab(colours)[:, :, 0, 0]
    for mine, colour in zip(found, colours[:, :, 0, 0].tolist(), strict=True):
        assert mine.tolist() == pytest.approx(literal_lab(colour), rel=1e-6, abs=1e-5)
    torch.testing.assert_close(lab_to_rgb(rgb_to_lab(colours)), colours, rtol=0, atol=1e-9)
    red = rgb_to_lab(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)).flatten().tolist()
    assert red == pytest.approx([53.24, 80.09, 67.20], abs=0.02)  # as published for sRGB


def test_bins_hold_all_colours_of_a_screen() -> None:
    bins = ab_bins()
    assert len(bins) == 306
    assert bins.min(0).values.tolist() == [-90, -110] and bins.max(0).values.tolist() == [100, 100]
    colours = torch.rand(20_000, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    ab = rgb_to_lab(colours)[:, 1:, 0, 0]
    assert torch.cdist(ab, bins).min(1).values.max() < 10 / math.sqrt(2) + 1e-3


def test_the_loss_is_equations_2_to_4() -> None:
    generator = torch.Generator().manual_seed(0)
    bins = ab_bins()[::30].double()
    ab = 60 * torch.rand(6, 2, generator=generator, dtype=torch.float64) - 30
    nearest, shares = soft_bins(ab, bins, 3, 5.0)
    frequency = torch.rand(len(bins), generator=generator, dtype=torch.float64)
    frequency[2] = 0
    frequency /= frequency.sum()
    weights = class_weights(frequency, 0.5)
    raw = [1 / (0.5 * float(p) + 0.5 / (len(bins) - 1)) for p in frequency]
    scale = sum(float(p) * w for p, w in zip(frequency, raw, strict=True))
    assert weights.tolist() == pytest.approx([w / scale for w in raw])
    assert float((weights * frequency).sum()) == pytest.approx(1)
    logits = torch.randn(2, 3, len(bins), generator=generator, dtype=torch.float64)
    colourful = torch.tensor([True, False])
    total = 0.0
    for place in range(6):
        apart = [math.dist(ab[place].tolist(), centre) for centre in bins.tolist()]
        order = sorted(range(len(bins)), key=lambda n: apart[n])[:3]
        assert order == nearest[place].tolist()
        gauss = [math.exp(-(apart[n] ** 2) / (2 * 25)) for n in order]
        soft = [g / sum(gauss) for g in gauss]
        assert soft == pytest.approx(shares[place].tolist(), rel=1e-5)
        row = logits.view(6, -1)[place].tolist()
        entropy = sum(s * cross_entropy(row, n) for s, n in zip(soft, order, strict=True))
        total += float(weights[order[0]]) * entropy * (place < 3)
    found = colorization_loss(logits, nearest.view(2, 3, 3), shares.view(2, 3, 3), weights, colourful)
    assert float(found) == pytest.approx(total / 6, rel=1e-5)


def test_the_annealed_mean_is_equation_5() -> None:
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    bins = ab_bins()[:7]
    for row, mine in zip(logits.double().tolist(), annealed_mean(logits, bins, 0.38), strict=True):
        z = [math.exp(x) / sum(math.exp(y) for y in row) for x in row]
        bent = [math.exp(math.log(p) / 0.38) for p in z]
        share = [b / sum(bent) for b in bent]
        for axis in range(2):
            expected = sum(s * float(bins[n, axis]) for n, s in enumerate(share))
            assert float(mine[axis]) == pytest.approx(expected, rel=1e-4)


def test_a_gray_image_teaches_no_colour_and_the_network_sees_lightness_alone() -> None:
    torch.manual_seed(0)
    config = of(Colorization(hidden=8))
    method: Any = build_method(config.method, config.model, 10)
    method.prepare({"images": 10}, config)
    task = method.task
    assert isinstance(task, ColorizationTask)
    gray = torch.rand(4, 1, 8, 8).expand(-1, 3, -1, -1)
    view = (gray - task.mean) / task.std
    assert float(task(method.backbone, view, torch.zeros(4, 1)).total) == 0
    engine = Engine(method, config, 3, CPU)
    for step in range(3):
        engine.train_step({"images": batch_of(config, "images", 16, step)}, StepInfo(step, step / 3, 0.0))
    first = method.backbone.stem.weight
    torch.testing.assert_close(first, first.mean(1, keepdim=True).expand_as(first), rtol=0, atol=1e-6)
    assert float(task.counts.sum()) == pytest.approx(4, rel=1e-4)  # with the gray batch


# --- inpainting -------------------------------------------------------------------------------------------------


def test_the_rim_of_the_region_is_seen_and_weighs_ten_times() -> None:
    config = of(Inpainting(width=8), image=ImageConfig(size=32))
    method: Any = build_method(config.method, config.model, 10)
    method.prepare({"images": 10}, config)
    task = method.task
    assert isinstance(task, InpaintingTask)
    hole, weight = task.masks(torch.zeros(1, 1))
    assert hole.sum() == 14 * 14 and (weight > 0).sum() == 16 * 16  # a rim of one of 16 pixels
    assert (weight[0, 0, 8, 8:24] == 10).all() and (weight[0, 0, 9:23, 9:23] == 1).all()
    made, images = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    total = 0.0
    for n, c, y, x in itertools.product(range(2), range(3), range(8, 24), range(8, 24)):
        rim = y in (8, 23) or x in (8, 23)
        total += (10 if rim else 1) * (float(made[n, c, y, x]) - float(images[n, c, y, x])) ** 2
    assert float(reconstruction_loss(made, images, weight)) == pytest.approx(total / (2 * 3 * 256), rel=1e-4)


def test_blots_hide_a_quarter_and_are_others_in_every_step() -> None:
    config = of(Inpainting(width=8, region="random"), image=ImageConfig(size=32))
    method: Any = build_method(config.method, config.model, 10)
    method.prepare({"images": 10}, config)
    masks = [method.task.masks(torch.rand(2, 1, generator=torch.Generator().manual_seed(n)))[0] for n in range(5)]
    assert all(int(mask.sum()) == 256 for mask in masks)
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(masks))


def test_the_decoders_loss_moves_no_weight_of_the_judge() -> None:
    torch.manual_seed(0)
    config = of(Inpainting(width=8, adversarial=0.5), image=ImageConfig(size=32))
    method: Any = build_method(config.method, config.model, 10)
    method.prepare({"images": 10}, config)
    view = torch.randn(4, 3, 32, 32)
    hole, _ = method.task.masks(torch.zeros(1, 1))
    made, _ = method.task.made(method.backbone, view, hole)
    deceives, judges = method.task._adversarial(made, view, hole)
    judge = list(method.task.judge.parameters())
    assert all(g is None for g in torch.autograd.grad(deceives, judge, allow_unused=True, retain_graph=True))
    decoder = list(method.task.decoder.parameters())
    assert any(float(g.abs().sum()) > 0 for g in torch.autograd.grad(deceives, decoder, retain_graph=True))
    assert all(g is None for g in torch.autograd.grad(judges, decoder, allow_unused=True))


def test_a_size_that_no_doubling_reaches_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be doubled to an image of 20 pixels"):
        Decoder(8, 8, 6, 20)


# --- several tasks ----------------------------------------------------------------------------------------------


def two_tasks(**more: Any) -> MultiPretext:
    tasks = (PretextTask(method=Colorization(hidden=8), share=3.0), PretextTask(method=Rotation(), weight=0.5))
    return MultiPretext(tasks=tasks, **more)


def test_the_losses_of_all_tasks_are_added_with_their_weights() -> None:
    torch.manual_seed(0)
    config = of(two_tasks())
    method: Any = build_method(config.method, config.model, 10)
    method.prepare({"images": 200}, config)
    losses = method({"images": batch_of(config, "images", 8, 0)})
    parts = losses.parts
    expected = parts["colorization_loss"] + 0.5 * parts["rotation_loss"]
    torch.testing.assert_close(losses.total.detach(), expected)


def test_a_step_has_one_task_which_the_seed_and_the_step_say() -> None:
    config = of(two_tasks(mode="alternate"))
    method: Any = build_method(config.method, config.model, 10)
    method.prepare({"images": 200}, config)
    drawn = [method.tasks_of(step) for step in range(400)]
    assert drawn == [method.tasks_of(step) for step in range(400)] and all(len(names) == 1 for names in drawn)
    counts = Counter(names[0] for names in drawn)
    assert 260 < counts["colorization"] < 340  # three of four
    method.prepare({"images": 200}, dataclasses.replace(config, seed=1))
    assert drawn != [method.tasks_of(step) for step in range(400)]


def test_heads_that_a_step_does_not_use_stay_and_statistics_are_of_the_first_task() -> None:
    torch.manual_seed(0)
    config = of(two_tasks(mode="alternate"))
    method: Any = build_method(config.method, config.model, 10)
    method.prepare({"images": 200}, config)
    engine = Engine(method, config, 8, CPU)
    seen = set()
    for step in range(8):
        (name,) = method.tasks_of(step)
        seen.add(name)
        before = {n: t.clone() for n, t in method.state_dict().items()}
        engine.train_step({"images": batch_of(config, "images", 16, step)}, StepInfo(step, step / 8, 0.0))
        for key, value in method.state_dict().items():
            if key.startswith("heads.") and f"heads.{name}." not in key:
                assert torch.equal(value, before[key]), key
            if key.endswith("running_mean") and key.startswith("backbone."):
                assert torch.equal(value, before[key]) == (name != "colorization"), key
    assert seen == {"colorization", "rotation"}


def test_the_log_has_each_tasks_mean_over_its_own_steps() -> None:
    config = of(two_tasks(mode="alternate"))
    method: Any = build_method(config.method, config.model, 10)
    method.prepare({"images": 200}, config)
    meter = Meter(Engine(method, config, 8, CPU), {})
    meter.add({"loss": torch.tensor(1.0), "one_loss": torch.tensor(4.0)}, {})
    meter.add({"loss": torch.tensor(3.0), "two_loss": torch.tensor(5.0)}, {})
    meter.add({"loss": torch.tensor(5.0), "two_loss": torch.tensor(7.0)}, {})
    assert meter.means() == {"loss": 3.0, "one_loss": 4.0, "two_loss": 6.0}


@pytest.mark.parametrize("name", sorted(name for name, config in CONFIGS.items() if isinstance(config.method, Pretext)))
def test_pictures_show_images_from_0_to_1_and_change_nothing(name: str) -> None:
    config = CONFIGS[name]
    torch.manual_seed(0)
    method: Any = build_method(config.method, config.model, 10)
    method.prepare({"images": 200}, config)
    before = {n: t.clone() for n, t in method.state_dict().items() if not n.endswith("num_batches_tracked")}
    rows = method.pictures({"images": batch_of(config, "images", 4, 0)})
    assert len(rows) in (4, 8)
    assert all(float(image.min()) >= 0 and float(image.max()) <= 1 for row in rows for image in row.images)
    assert all(row.caption and image.ndim == 3 for row in rows for image in row.images)
    after = method.state_dict()
    assert all(torch.equal(value, after[n]) for n, value in before.items())


def test_a_puzzle_for_a_vision_transformer_is_refused() -> None:
    model = dataclasses.replace(CONFIG.model, name="vit_32x2_2")
    assert "take a ResNet" in str(Jigsaw().unsupported_model(model, 96))
    assert "no room" in str(Jigsaw(tile_size=0.3).unsupported_model(CONFIG.model, 24))
    assert "map of features" in str(Colorization().unsupported_model(model, 96))
