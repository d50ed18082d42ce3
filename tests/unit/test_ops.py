"""Each batched operation gives what torchvision v2 gives, image by image, with the same parameter."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as V

from sslscale.data import augment, ops, rng
from sslscale.recipes.augment import OPERATIONS, AugmentConfig, RandAugmentConfig

NEAREST = InterpolationMode.NEAREST


def photographs() -> Tensor:
    """48 pieces of 32 x 32 of scikit-learn's photographs, with flat and gray ones among them."""
    from sklearn.datasets import load_sample_images

    pieces = []
    for image in load_sample_images().images:
        pieces += [image[y : y + 32, x : x + 32] for y in range(0, 400, 100) for x in range(0, 600, 100)]
    images = torch.from_numpy(np.stack(pieces)).permute(0, 3, 1, 2).contiguous()
    images[0] = 77
    images[1] = images[1, :1]
    return images


IMAGES = photographs()
DRAW = torch.Generator().manual_seed(0)


def uniform(low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(len(IMAGES), generator=DRAW)


def each(function: Callable[[Tensor, int], Tensor]) -> Tensor:
    return torch.stack([function(image, i) for i, image in enumerate(IMAGES)])


def affine(image: Tensor, **changes: object) -> Tensor:
    plain: dict = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    return V.affine(image, **{**plain, **changes}, interpolation=NEAREST, fill=[128.0] * 3)


FACTOR, LEVEL, DEGREES = uniform(0, 5), uniform(-1, 1), uniform(-180, 180)
BITS, THRESHOLD = torch.randint(1, 9, (48,), generator=DRAW), torch.randint(0, 257, (48,), generator=DRAW).float()
MOVES = torch.randint(-40, 41, (48, 2), generator=DRAW).float()
PAIRS: dict[str, tuple[Tensor, Tensor]] = {
    "brightness": (ops.brightness(IMAGES, FACTOR), each(lambda x, i: V.adjust_brightness(x, float(FACTOR[i])))),
    "contrast": (ops.contrast(IMAGES, FACTOR), each(lambda x, i: V.adjust_contrast(x, float(FACTOR[i])))),
    "saturation": (ops.saturation(IMAGES, FACTOR), each(lambda x, i: V.adjust_saturation(x, float(FACTOR[i])))),
    "sharpness": (ops.sharpness(IMAGES, FACTOR), each(lambda x, i: V.adjust_sharpness(x, float(FACTOR[i])))),
    "posterize": (ops.posterize(IMAGES, BITS), each(lambda x, i: V.posterize(x, int(BITS[i])))),
    "solarize": (
        ops.solarize(IMAGES, THRESHOLD),
        each(lambda x, i: V.solarize(x, float(THRESHOLD[i])) if THRESHOLD[i] < 256 else x),
    ),
    "autocontrast": (ops.autocontrast(IMAGES), each(lambda x, i: V.autocontrast(x))),
    "equalize": (ops.equalize(IMAGES), each(lambda x, i: V.equalize(x))),
    "invert": (ops.invert(IMAGES), each(lambda x, i: V.invert(x))),
    "rotate": (
        ops.rotate(IMAGES, DEGREES),
        each(lambda x, i: V.rotate(x, float(DEGREES[i]), interpolation=NEAREST, fill=[128.0] * 3)),
    ),
    "translate": (
        ops.translate(IMAGES, MOVES[:, 0], MOVES[:, 1]),
        each(lambda x, i: affine(x, translate=[int(MOVES[i, 0]), int(MOVES[i, 1])])),
    ),
    "shear_x": (
        ops.shear_x(IMAGES, LEVEL),
        each(lambda x, i: affine(x, shear=[math.degrees(math.atan(float(LEVEL[i]))), 0.0], center=[0, 0])),
    ),
    "shear_y": (
        ops.shear_y(IMAGES, LEVEL),
        each(lambda x, i: affine(x, shear=[0.0, math.degrees(math.atan(float(LEVEL[i])))], center=[0, 0])),
    ),
    "flip": (ops.flip(IMAGES, LEVEL < 0), each(lambda x, i: V.horizontal_flip(x) if LEVEL[i] < 0 else x)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_equal_to_torchvision(name: str) -> None:
    ours, theirs = PAIRS[name]
    difference = (ours.int() - theirs.int()).abs()
    assert difference.float().mean() < 0.05
    if name in ("rotate", "shear_x", "shear_y"):  # a source point between two pixels may round to either
        assert (difference > 1).float().mean() < 0.002
    else:
        assert difference.max() <= 1


def test_pad_and_crop_equals_padding_and_cropping_one_by_one() -> None:
    x, y = torch.rand(48, generator=DRAW), torch.rand(48, generator=DRAW)
    padded = V.pad(IMAGES, [4], padding_mode="reflect")
    top, left = (y * 9).long().tolist(), (x * 9).long().tolist()
    expected = torch.stack([padded[i, :, top[i] : top[i] + 32, left[i] : left[i] + 32] for i in range(48)])
    assert ops.pad_and_crop(IMAGES, x, y, 4).equal(expected)


def test_cutout_fills_the_square_that_it_says() -> None:
    out = ops.cutout(IMAGES, torch.full((48,), 0.5), torch.full((48,), 0.0), torch.full((48,), 8.0), fill=7)
    assert (out[:, :, :8, 8:24] == 7).all()
    assert out[:, :, 8:].equal(IMAGES[:, :, 8:])


def test_solarize_add_by_the_loop() -> None:
    out = ops.solarize_add(IMAGES, torch.full((48,), 100.0))
    expected = torch.where(IMAGES < 128, (IMAGES.int() + 100).clamp(max=255), IMAGES.int())
    assert out.int().equal(expected)


def literal_randaugment(image: Tensor, draws: Tensor, config: RandAugmentConfig) -> Tensor:
    """One image at a time, by torchvision, with the authors' scales (randaugment.py): the slow transcription."""
    m, side = config.magnitude / 10, image.shape[-1]
    for layer in range(config.num_ops):
        pick, sign, x, y = draws[layer * 5 : layer * 5 + 4].tolist()
        name = config.operations[int(pick * len(config.operations))]
        sign = -1.0 if sign < 0.5 else 1.0
        enhance = m * 1.8 + 0.1
        if name == "rotate":
            image = V.rotate(image, sign * m * 30, interpolation=NEAREST, fill=[128.0] * 3)
        elif name == "posterize":
            image = V.posterize(image, min(int(m * 4), 8))
        elif name == "solarize":
            image = V.solarize(image, int(m * 256)) if int(m * 256) <= 255 else image
        elif name == "color":
            image = V.adjust_saturation(image, enhance)
        elif name in ("contrast", "brightness", "sharpness"):
            image = getattr(V, f"adjust_{name}")(image, enhance)
        elif name.startswith("shear"):
            angle = math.degrees(math.atan(sign * m * 0.3))
            image = affine(image, shear=[angle, 0.0] if name == "shear_x" else [0.0, angle], center=[0, 0])
        elif name.startswith("translate"):
            move = sign * m * config.translate * side
            assert move == int(move)
            image = affine(image, translate=[int(move), 0] if name == "translate_x" else [0, int(move)])
        elif name == "solarize_add":
            image = torch.where(image < 128, (image.int() + int(m * 110)).clamp(max=255).to(torch.uint8), image)
        elif name == "cutout":
            image, half = image.clone(), int(m * config.cutout * side)
            row, column = int(y * side), int(x * side)
            image[:, max(row - half, 0) : row + half, max(column - half, 0) : column + half] = 128
        else:
            image = getattr(V, name)(image)
    return image


@pytest.mark.parametrize("magnitude", [5.0, 10.0, 27.0])
def test_randaugment_equals_its_literal_transcription(magnitude: float) -> None:
    config = RandAugmentConfig(num_ops=2, magnitude=magnitude, translate=10 / 32 / magnitude * 2, cutout=4 / 32)
    count = augment.num_draws(AugmentConfig(randaugment=config))
    images = IMAGES.repeat(4, 1, 1, 1)
    draws = rng.uniforms(5, torch.zeros(192, dtype=torch.int64), torch.arange(192), count)[:, 5:]
    ours = augment.randaugment(images, draws, config)
    theirs = torch.stack([literal_randaugment(image, draw, config) for image, draw in zip(images, draws, strict=True)])
    difference = (ours.int() - theirs.int()).abs()
    # a difference of 1 before equalize or posterize may grow behind it
    assert (difference > 8).float().mean() < 0.01
    chosen = (draws[:, 0] * 16).long().unique()
    assert len(chosen) == len(OPERATIONS)


def test_noise_switched_off_changes_nothing() -> None:
    config = AugmentConfig()
    draws = torch.rand(48, augment.num_draws(config), generator=DRAW)
    assert augment.augment(IMAGES, draws, config).equal(IMAGES)


def test_normalize_is_its_formula() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    out = augment.normalize(IMAGES, mean, std, torch.float32)
    expected = (IMAGES / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
