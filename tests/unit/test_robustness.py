"""Perturbation sequences, flips, attacks, and the stage that measures them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sslscale.errors import DataError
from sslscale.evaluate import perturbations
from sslscale.evaluate.adversarial import fgsm, pgd
from sslscale.graph.artifacts import Dataset
from sslscale.graph.context import RunContext
from sslscale.settings.robustness import RobustnessConfig
from sslscale.stages.robustness import robustness
from sslscale.storage.jsonio import read_json
from tests.unit.test_evaluation import save


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photographs(size: int) -> torch.Tensor:
    from sklearn.datasets import load_sample_images

    cut = [np.asarray(Image.fromarray(x).resize((size, size))) for x in load_sample_images().images]
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("size", [32, 224])
def test_sequences_have_the_published_frames(size: int) -> None:
    images = photographs(size)
    for name in perturbations.NAMES:
        frames = list(perturbations.sequence(images, name, generator()))
        small = {"motion_blur": 21, "translate": 16}.get(name, 31)
        large = {"translate": 41}.get(name, 31)
        assert len(frames) == (small if size == 32 else large), name
        assert all(f.dtype == torch.uint8 and f.shape == images.shape for f in frames)
        steps = [float((a.float() - b.float()).abs().mean()) for a, b in pairwise(frames)]
        assert 0 < max(steps) < 45, (name, steps)
        middle = {"brightness": 15, "rotate": 15, "scale": 15 if size == 32 else 24}.get(name)
        middle = {"translate": 7 if size == 32 else 20, "zoom_blur": 0}.get(name, middle)
        if middle is not None:  # the frame that changes nothing, but for rounding down
            assert int((frames[middle].int() - images.int()).abs().max()) <= 1, name


def test_warps_are_torchvisions_and_pils() -> None:
    """Rotation, scale and translation against torchvision's affine, which the authors call."""
    from torchvision.transforms import functional as tv

    images = photographs(224)
    rotated = list(perturbations.sequence(images, "rotate", generator()))
    scaled = list(perturbations.sequence(images, "scale", generator()))
    moved = list(perturbations.sequence(images, "translate", generator()))
    bilinear = tv.InterpolationMode.BILINEAR
    for i in (0, 9, 26):
        theirs = tv.affine(images, angle=i - 15, translate=[0, 0], scale=1.0, shear=[0.0], interpolation=bilinear)
        assert (rotated[i].float() - theirs.float()).abs().mean() < 1
        theirs = tv.affine(
            images, angle=0, translate=[0, 0], scale=(2.5 * i + 40) / 100, shear=[0.0], interpolation=bilinear
        )
        assert (scaled[i].float() - theirs.float()).abs().mean() < 1
        theirs = tv.affine(images, angle=0, translate=[i - 20, 0], scale=1.0, shear=[0.0])
        assert (moved[i].float() - theirs.float()).abs().mean() < 1


def test_tilt_is_the_published_homography() -> None:
    size, i = 224, 22
    images = photographs(size)
    frame = list(perturbations.sequence(images, "tilt", generator()))[i]
    angle = np.deg2rad(i - 15)
    f = np.sqrt(2.0) * size
    first = np.array([[1, 0, -size / 2], [0, 1, -size / 2], [0, 0, 1], [0, 0, 1]])
    c, s = np.cos(angle), np.sin(angle)
    rx = np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]])
    ry = np.array([[c, 0, -s, 0], [0, 1, 0, 0], [s, 0, c, 0], [0, 0, 0, 1]])
    away = np.eye(4)
    away[2, 3] = f
    last = np.array([[f, 0, size / 2, 0], [0, f, size / 2, 0], [0, 0, 1, 0]])
    back = np.linalg.inv(last @ away @ rx @ ry @ first)
    y, x = np.mgrid[:size, :size].astype(float)
    place = back @ np.stack([x.ravel(), y.ravel(), np.ones(size * size)])
    from scipy import ndimage

    for number in range(len(images)):
        for channel in range(3):
            want = ndimage.map_coordinates(
                images[number, channel].numpy().astype(float), [place[1] / place[2], place[0] / place[2]], order=1
            )
            inside = want.reshape(size, size) > 0
            apart = np.abs(frame[number, channel].numpy() - want.reshape(size, size))[inside]
            assert apart.mean() < 1


def test_flips_and_distances_are_counted_as_published() -> None:
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(6, 40, 12)).astype(np.float32) * 0.3 + rng.normal(size=(1, 40, 12)).astype(np.float32)
    for noise in (False, True):
        flips = perturbations.Flips(noise)
        flips.add(torch.from_numpy(f) for f in frames)
        flip, distance = [], []
        cum = np.cumsum([0] + [1] * 5 + [0] * 6)
        for image in range(40):
            ranks = [np.argsort(np.argsort(-f[image])) + 1 for f in frames]
            before = 0
            for now in range(1, 6):
                flip.append(int(ranks[now].argmin() != ranks[before].argmin()))
                sigma = ranks[now][np.argsort(ranks[before])]
                distance.append(np.abs(cum[:5] - cum[sigma - 1][:5]).sum())
                before = before if noise else now
        assert flips.probability == pytest.approx(np.mean(flip)) and np.mean(flip) > 0
        assert flips.top5 == pytest.approx(np.mean(distance))


def test_fgsm_on_a_linear_classifier_is_its_closed_form() -> None:
    torch.manual_seed(0)
    weights = torch.randn(2, 48)
    images, labels = torch.rand(20, 3, 4, 4) * 0.5 + 0.25, torch.arange(20) % 2

    def logits(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ weights.T

    moved = fgsm(logits, images, labels, 0.1)
    # the loss grows along the other class's weights less the true one's
    direction = (weights[1 - labels] - weights[labels]).sign().view_as(images)
    torch.testing.assert_close(moved, images + 0.1 * direction)
    same = pgd(logits, images, labels, 0.1, steps=10, generator=generator())
    torch.testing.assert_close(same, moved)  # of a linear one the corner of the box is the worst


def test_pgd_stays_in_the_box_and_is_at_least_as_strong() -> None:
    torch.manual_seed(1)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 64), torch.nn.Tanh(), torch.nn.Linear(64, 3))
    images, labels = torch.rand(50, 3, 4, 4), torch.randint(0, 3, (50,))

    def loss(x: torch.Tensor) -> float:
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(network(x), labels))

    one = fgsm(network, images, labels, 0.1)
    many = pgd(network, images, labels, 0.1, steps=20, generator=generator())
    for moved in (one, many):
        assert float((moved - images).abs().max()) <= 0.1 + 1e-6
        assert float(moved.min()) >= 0 and float(moved.max()) <= 1
    assert loss(images) < loss(one) < loss(many)
    assert all(p.grad is None for p in network.parameters())


def test_the_stage_measures_and_compares_with_a_baseline(
    digits: Path, tmp_path: Path, context: Callable[..., RunContext]
) -> None:
    model = save(context("model"), tuple("0123456789"), size=16)
    data = Dataset(path=str(digits), num_samples={"test": 450}, classes=tuple("0123456789"))
    config = RobustnessConfig(max_images=20, pgd_steps=2, epsilons=(1.0, 64.0))
    first = robustness(context("first"), config, model=model, data=data)
    report = read_json(first.dir / "report.json")
    assert report["samples"] == 20 and len(report["corruptions"]) == 15 and len(report["perturbations"]) == 10
    assert "stands in" in report["frost"] and (first.dir / "robustness.png").exists()
    assert "mce" not in first.metrics
    assert report["attacks"]["pgd"]["64.0"] <= report["attacks"]["pgd"]["1.0"] <= first.metrics["clean_accuracy"] + 0.1
    again = robustness(context("again"), config, model=model, data=data, baseline=first)
    assert {n: v for n, v in again.metrics.items() if n in first.metrics} == first.metrics
    assert again.metrics["mce"] == pytest.approx(1)
    if all(row["flip"] for row in report["perturbations"].values()):
        assert again.metrics["mfr"] == pytest.approx(1)
    frost = dataclasses.replace(config, frost_images=str(tmp_path / "none"))
    with pytest.raises(DataError, match="none: has no images of frost"):
        robustness(context("frost"), frost, model=model, data=data)
