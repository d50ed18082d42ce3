"""Each batched operation gives what torchvision v2 gives, image by image, with the same parameter."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as V

from sslscale.data import augment, geometry, mix, ops, rng
from sslscale.data.plan import make_plan, num_draws
from sslscale.settings.augment import OPERATIONS, AugmentConfig, BlurConfig, JitterConfig, RandAugmentConfig

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
TURN, SIGMA = uniform(-0.5, 0.5), uniform(0.1, 2)
BITS, THRESHOLD = torch.randint(1, 9, (48,), generator=DRAW), torch.randint(0, 257, (48,), generator=DRAW).float()
MOVES = torch.randint(-40, 41, (48, 2), generator=DRAW).float()
PAIRS: dict[str, tuple[Tensor, Tensor]] = {
    "brightness": (ops.brightness(IMAGES, FACTOR), each(lambda x, i: V.adjust_brightness(x, float(FACTOR[i])))),
    "contrast": (ops.contrast(IMAGES, FACTOR), each(lambda x, i: V.adjust_contrast(x, float(FACTOR[i])))),
    "saturation": (ops.saturation(IMAGES, FACTOR), each(lambda x, i: V.adjust_saturation(x, float(FACTOR[i])))),
    "sharpness": (ops.sharpness(IMAGES, FACTOR), each(lambda x, i: V.adjust_sharpness(x, float(FACTOR[i])))),
    "grayscale": (ops.grayscale(IMAGES), each(lambda x, i: V.rgb_to_grayscale(x, 3))),
    "hue": (ops.hue(IMAGES, TURN), each(lambda x, i: V.adjust_hue(x, float(TURN[i])))),
    "blur": (
        ops.gaussian_blur(IMAGES, SIGMA, 7),
        each(lambda x, i: V.gaussian_blur(x, [7, 7], [float(SIGMA[i])] * 2)),
    ),
    "posterize": (ops.posterize(IMAGES, BITS), each(lambda x, i: V.posterize(x, int(BITS[i])))),
    "solarize": (
        ops.solarize(IMAGES, THRESHOLD),
        each(lambda x, i: V.solarize(x, float(THRESHOLD[i])) if THRESHOLD[i] < 256 else x),
    ),
    "autocontrast": (ops.autocontrast(IMAGES), each(lambda x, i: V.autocontrast(x))),
    "equalize": (ops.equalize(IMAGES), each(lambda x, i: V.equalize(x))),
    "invert": (ops.invert(IMAGES), each(lambda x, i: V.invert(x))),
    "rotate": (
        geometry.rotate(IMAGES, DEGREES),
        each(lambda x, i: V.rotate(x, float(DEGREES[i]), interpolation=NEAREST, fill=[128.0] * 3)),
    ),
    "translate": (
        geometry.translate(IMAGES, MOVES[:, 0], MOVES[:, 1]),
        each(lambda x, i: affine(x, translate=[int(MOVES[i, 0]), int(MOVES[i, 1])])),
    ),
    "shear_x": (
        geometry.shear_x(IMAGES, LEVEL),
        each(lambda x, i: affine(x, shear=[math.degrees(math.atan(float(LEVEL[i]))), 0.0], center=[0, 0])),
    ),
    "shear_y": (
        geometry.shear_y(IMAGES, LEVEL),
        each(lambda x, i: affine(x, shear=[0.0, math.degrees(math.atan(float(LEVEL[i])))], center=[0, 0])),
    ),
    "flip": (geometry.flip(IMAGES, LEVEL < 0), each(lambda x, i: V.horizontal_flip(x) if LEVEL[i] < 0 else x)),
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
    assert geometry.pad_and_crop(IMAGES, x, y, 4).equal(expected)


def test_cutout_fills_the_square_that_it_says() -> None:
    out = geometry.cutout(IMAGES, torch.full((48,), 0.5), torch.full((48,), 0.0), torch.full((48,), 8.0), fill=7)
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
    count = num_draws(AugmentConfig(randaugment=config))
    images = IMAGES.repeat(4, 1, 1, 1)
    draws = rng.uniforms(5, torch.zeros(192, dtype=torch.int64), torch.arange(192), count)[:, 5:]
    ours = augment.randaugment(images, draws, config)
    theirs = torch.stack([literal_randaugment(image, draw, config) for image, draw in zip(images, draws, strict=True)])
    difference = (ours.int() - theirs.int()).abs()
    # a difference of 1 before equalize or posterize may grow behind it
    assert (difference > 8).float().mean() < 0.01
    chosen = (draws[:, 0] * 16).long().unique()
    assert len(chosen) == len(OPERATIONS)


def test_the_same_without_rounding_on_float_images() -> None:
    images = IMAGES.float()
    for ours, theirs in (
        (ops.brightness(images, FACTOR), lambda x, i: V.adjust_brightness(x, float(FACTOR[i]))),
        (ops.contrast(images, FACTOR), lambda x, i: V.adjust_contrast(x, float(FACTOR[i]))),
        (ops.saturation(images, FACTOR), lambda x, i: V.adjust_saturation(x, float(FACTOR[i]))),
        (ops.sharpness(images, FACTOR), lambda x, i: V.adjust_sharpness(x, float(FACTOR[i]))),
        (ops.hue(images, TURN), lambda x, i: V.adjust_hue(x, float(TURN[i]))),
        (ops.gaussian_blur(images, SIGMA, 5), lambda x, i: V.gaussian_blur(x, [5, 5], [float(SIGMA[i])] * 2)),
    ):
        expected = torch.stack([theirs(image / 255, i) for i, image in enumerate(images)]) * 255
        torch.testing.assert_close(ours, expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("config", [JitterConfig(p=0.8), JitterConfig(p=1, hue=0.0, contrast=2.0)])
def test_jitter_equals_torchvision_in_each_images_own_order(config: JitterConfig) -> None:
    draws = torch.rand(48, 9, generator=DRAW)
    augmented = AugmentConfig(jitter=config)
    plan = make_plan(
        torch.cat([torch.zeros(48, 5), draws, torch.ones(48, 3)], 1), augmented, 32, IMAGES.shape[-2], IMAGES.shape[-1]
    )
    ours = augment.augment(IMAGES, plan, augmented, 32)

    def theirs(image: Tensor, i: int) -> Tensor:
        chance, b, c, s, h, *order = draws[i].tolist()
        image = image / 255
        if chance >= config.p:
            return image
        for operation in sorted(range(4), key=order.__getitem__):
            if operation == 3:
                image = V.adjust_hue(image, config.hue * (2 * h - 1)) if config.hue else image
                continue
            strength = (config.brightness, config.contrast, config.saturation)[operation]
            low = max(1 - strength, 0)
            factor = low + (1 + strength - low) * (b, c, s)[operation]
            name = ("brightness", "contrast", "saturation")[operation]
            image = getattr(V, f"adjust_{name}")(image, factor)
        return image

    difference = (ours / 255 - each(theirs)).abs()
    assert difference.mean() < 1e-4 and difference.max() < 0.01


@pytest.mark.parametrize(("side", "size"), [(32, 32), (32, 20), (24, 40)])
def test_resized_crop_equals_torchvision(side: int, size: int) -> None:
    images = IMAGES[:, :, :side]
    draws = torch.rand(48, geometry.CROP_DRAWS, generator=DRAW)
    boxes = geometry.crop_boxes(draws, side, 32, (0.08, 1.0), (3 / 4, 4 / 3))
    mirrored = draws[:, 0] < 0.5
    ours = geometry.resized_crop(images, boxes, size, mirrored)

    def theirs(image: Tensor, i: int) -> Tensor:
        top, left, height, width = boxes[i].int().tolist()
        out = V.resized_crop(image[:, :side].float(), top, left, height, width, [size, size], antialias=True)
        return V.horizontal_flip(out) if mirrored[i] else out

    torch.testing.assert_close(ours, each(theirs), rtol=0, atol=0.02)


def test_crop_boxes_are_distributed_as_torchvisions() -> None:
    from torchvision.transforms.v2 import RandomResizedCrop

    torch.manual_seed(0)
    for height, width in ((32, 32), (20, 90)):  # the second often finds nothing in 10 draws
        theirs = RandomResizedCrop(32, scale=(0.2, 1.0))
        params = [theirs.make_params([torch.zeros(3, height, width)]) for _ in range(6000)]
        expected = torch.tensor([[p[n] for n in ("top", "left", "height", "width")] for p in params]).float()
        ours = geometry.crop_boxes(torch.rand(6000, geometry.CROP_DRAWS), height, width, (0.2, 1.0), (3 / 4, 4 / 3))
        spread = expected.std(0) + 0.5
        assert ((ours.mean(0) - expected.mean(0)).abs() < 0.08 * spread).all()
        assert ((ours.std(0) - expected.std(0)).abs() < 0.08 * spread).all()
        assert ours[:, 0].min() >= 0 and (ours[:, 0] + ours[:, 2]).max() <= height
        assert ours[:, 1].min() >= 0 and (ours[:, 1] + ours[:, 3]).max() <= width


def test_erasing_is_distributed_as_torchvisions() -> None:
    from torchvision.transforms.v2 import RandomErasing

    torch.manual_seed(0)
    params = [RandomErasing(p=1).make_params([torch.zeros(3, 32, 24)]) for _ in range(6000)]
    expected = torch.tensor([[p[n] for n in ("i", "j", "h", "w")] for p in params if p["v"] is not None]).float()
    ours = geometry.erase_boxes(torch.rand(6000, geometry.ERASE_DRAWS), 32, 24)
    ours = ours[ours[:, 2] > 0]
    assert ((ours.mean(0) - expected.mean(0)).abs() < 0.08 * expected.std(0)).all()
    filled = geometry.erase(IMAGES, torch.tensor([[2.0, 3.0, 4.0, 5.0]]).expand(48, -1), 9)
    assert (filled[:, :, 2:6, 3:8] == 9).all() and (filled != IMAGES).sum() <= 48 * 3 * 20


def test_quarter_turns_and_tiles() -> None:
    turns = torch.arange(48) % 4
    assert geometry.quarter_turns(IMAGES, turns).equal(each(lambda x, i: torch.rot90(x, int(turns[i]), (1, 2))))
    x, y = torch.rand(48, 9, generator=DRAW), torch.rand(48, 9, generator=DRAW)
    cut = geometry.tiles(IMAGES, 3, 7, x, y)
    assert cut.shape == (48, 9, 3, 7, 7)
    for image, number in ((5, 0), (17, 5), (40, 8)):
        top = number // 3 * 10 + int(y[image, number] * 4)
        left = number % 3 * 10 + int(x[image, number] * 4)
        assert cut[image, number].equal(IMAGES[image, :, top : top + 7, left : left + 7])
    order = torch.stack([torch.randperm(9, generator=DRAW) for _ in range(48)])
    mixed = geometry.jigsaw(cut, order)
    assert all(mixed[i, k].equal(cut[i, order[i, k]]) for i in (0, 20, 47) for k in range(9))


def test_mixup_and_cutmix_are_their_formulas() -> None:
    images, labels = IMAGES / 255, torch.eye(48)
    share, partner = torch.rand(48, generator=DRAW), torch.randperm(48, generator=DRAW)
    mixed, soft = mix.mixup(images, labels, share, partner)
    i, j, lam = 7, int(partner[7]), float(share[7])
    torch.testing.assert_close(mixed[i], lam * images[i] + (1 - lam) * images[j])
    torch.testing.assert_close(soft[i], lam * labels[i] + (1 - lam) * labels[j])
    x, y = torch.rand(48, generator=DRAW), torch.rand(48, generator=DRAW)
    pasted, soft = mix.cutmix(images, labels, share, partner, x, y)
    for i in range(48):  # the paper's code, one image at a time
        reach, j = 0.5 * math.sqrt(1 - float(share[i])), int(partner[i])
        row, column, half = int(float(y[i]) * 32), int(float(x[i]) * 32), int(reach * 32)
        top, bottom = max(row - half, 0), min(row + half, 32)
        left, right = max(column - half, 0), min(column + half, 32)
        expected = images[i].clone()
        expected[:, top:bottom, left:right] = images[j][:, top:bottom, left:right]
        assert pasted[i].equal(expected)
        area = 1 - (bottom - top) * (right - left) / 1024
        torch.testing.assert_close(soft[i], area * labels[i] + (1 - area) * labels[j])


SIMCLR = AugmentConfig(crop="resized", flip=True, jitter=JitterConfig(), grayscale=0.3, blur=BlurConfig(), solarize=0.2)


@pytest.mark.parametrize(
    ("config", "size", "cropped"),
    [
        (SIMCLR, 32, False),
        (dataclasses.replace(SIMCLR, blur=BlurConfig(kernel=0.4, sigma=(0.1, 3.0))), 24, False),
        (dataclasses.replace(SIMCLR, scale=(0.8, 1.0)), 11, False),  # smaller: more than two taps a pixel
        (dataclasses.replace(SIMCLR, solarize=0.0), 48, False),
        (SIMCLR, 32, True),
        (AugmentConfig(jitter=JitterConfig(hue=0.5)), 32, False),
    ],
)
def test_the_kernels_do_what_the_operations_on_batches_do(config: AugmentConfig, size: int, cropped: bool) -> None:
    pytest.importorskip("numba")
    from sslscale.data import kernels

    images = IMAGES.repeat(4, 1, 1, 1)
    plan = make_plan(torch.rand(192, num_draws(config), generator=DRAW), config, size, 32, 32)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    kernel = config.blur.pixels(size) if config.blur else 1
    ours = kernels.views(images, plan, size, kernel, mean, std, cropped=cropped)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    batch = augment.normalize(augment.augment(images, plan, config, size, cropped=cropped), mean, std)
    difference = (ours - batch).abs() * 255 * 0.3
    assert (difference > 0.05).float().mean() < 2e-4  # a value within rounding of 128 may be solarised or not
    assert augment.make_view(images, plan, config, size, mean, std, cropped=cropped).equal(ours)


EVERYTHING = AugmentConfig(
    crop="resized",
    flip=True,
    jitter=JitterConfig(),
    grayscale=0.3,
    blur=BlurConfig(),
    solarize=0.3,
    equalize=0.2,
    randaugment=RandAugmentConfig(magnitude=5),
    cutout=0.2,
    erase=0.5,
)


def test_an_images_view_is_the_same_in_any_batch() -> None:
    draws = torch.rand(48, num_draws(EVERYTHING), generator=DRAW)
    view = lambda images, draws: augment.make_view(  # noqa: E731
        images, make_plan(draws, EVERYTHING, 24, 32, 32), EVERYTHING, 24, (0.5,) * 3, (0.2,) * 3
    )
    whole = view(IMAGES, draws)
    assert whole.shape == (48, 3, 24, 24) and whole.is_contiguous(memory_format=torch.channels_last)
    parts = torch.cat([view(IMAGES[a : a + 16], draws[a : a + 16]) for a in (0, 16, 32)])
    # sums of another order may round another way, which equalize and solarize can enlarge for a few pixels
    assert ((whole - parts).abs() > 1e-3).float().mean() < 1e-3
    assert float(whole.min()) >= -2.5 and float(whole.max()) <= 2.5 and whole.std() > 0.3


def test_augmentation_without_operations_is_the_identity() -> None:
    config = AugmentConfig()
    draws = torch.rand(48, num_draws(config), generator=DRAW)
    assert augment.augment(IMAGES, make_plan(draws, config, 32, 32, 32), config, 32).equal(IMAGES)


def test_normalize_is_its_formula() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    out = augment.normalize(IMAGES, mean, std)
    expected = (IMAGES / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
