"""Corruptions on batches against one image at a time: scipy, PIL and loops, with the same random numbers."""

from __future__ import annotations

import colorsys
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from sslscale.evaluate import fields
from sslscale.evaluate.corruptions import _C, ALEXNET_ERRORS, COMMON, EXTRA, SMALL, corrupt, mean_corruption_error

SIZES = (32, 224)


@pytest.fixture(scope="module", params=SIZES)
def images(request: pytest.FixtureRequest) -> np.ndarray:
    """Pieces of two photographs, uint8 (n, size, size, 3)."""
    from sklearn.datasets import load_sample_images

    size = request.param
    found = []
    for photograph in load_sample_images().images:
        if size == 32:
            photograph = np.asarray(Image.fromarray(photograph).resize((160, 107), Image.Resampling.BICUBIC))
        found += [photograph[y : y + size, x : x + size] for y, x in ((20, 40), (60, 100))]
    return np.stack(found[:4] if size == 32 else found[:2])


def ours(images: np.ndarray, name: str, severity: int) -> np.ndarray:
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return corrupt(x, name, severity, generator()).permute(0, 2, 3, 1).numpy()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def parameters(images: np.ndarray, name: str, severity: int):
    return _C[name][images.shape[1] >= SMALL][severity - 1]


def check(images: np.ndarray, name: str, severity: int, expected: list[np.ndarray], *, far: float = 0.004) -> None:
    """Within 1/255 in the mean, and hardly a value (a share of `far`) more than 2 away."""
    got = ours(images, name, severity).astype(int)
    want = np.stack([np.uint8(np.clip(x, 0, 255)) for x in expected]).astype(int)
    assert not np.array_equal(want, images), "the reference changes nothing: the comparison would prove nothing"
    apart = np.abs(got - want)
    assert apart.mean() < 1, apart.mean()
    assert (apart > 2).mean() <= far, (apart > 2).mean()


def gaussian(x: np.ndarray, sigma: float, mode: str = "nearest", truncate: float = 4) -> np.ndarray:
    axes = (sigma, sigma, 0) if x.ndim == 3 else sigma
    return ndimage.gaussian_filter(x, axes, mode=mode, truncate=truncate)  # type: ignore[arg-type]


def zoomed(x: np.ndarray, factor: float) -> np.ndarray:
    size = len(x)
    inner = math.ceil(size / factor)
    top = (size - inner) // 2
    big: Any = ndimage.zoom(x[top : top + inner, top : top + inner], (factor, factor, 1), order=1)
    trim = (len(big) - size) // 2
    return big[trim : trim + size, trim : trim + size]


def moved(x: np.ndarray, radius: int, sigma: float, angle: float) -> np.ndarray:
    """ImageMagick's motion blur, a tap at a time."""
    taps = [math.exp(-i * i / (2 * sigma * sigma)) for i in range(2 * radius + 1)]
    size = len(x)
    result = np.zeros(x.shape)
    for i, tap in enumerate(taps):
        down = math.ceil(i * math.sin(math.radians(angle)) - 0.5)
        right = math.ceil(i * math.cos(math.radians(angle)) - 0.5)
        rows = np.clip(np.arange(size) + down, 0, size - 1)
        columns = np.clip(np.arange(size) + right, 0, size - 1)
        result += tap / sum(taps) * x[rows][:, columns]
    return result


def severities(images: np.ndarray) -> tuple[int, ...]:
    return (1, 3, 5)


def test_noise(images: np.ndarray) -> None:
    shape = (len(images), 3, *images.shape[1:3])
    x = images / 255
    for severity in severities(images):
        draw = torch.randn(shape, generator=generator()).permute(0, 2, 3, 1).numpy()
        c = parameters(images, "gaussian_noise", severity)
        check(images, "gaussian_noise", severity, list(np.clip(x + c * draw, 0, 1) * 255))
        c = parameters(images, "speckle_noise", severity)
        check(images, "speckle_noise", severity, list(np.clip(x + x * c * draw, 0, 1) * 255))
        c = parameters(images, "impulse_noise", severity)
        got = ours(images, "impulse_noise", severity)
        changed = got != images
        assert set(np.unique(got[changed])) <= {0, 255}
        assert changed.mean() == pytest.approx(c, rel=0.2, abs=0.01)
        c = parameters(images, "shot_noise", severity)
        apart = ours(images, "shot_noise", severity) / 255 - x
        middle = (x > 0.3) & (x < 0.6)  # not cut off
        assert apart[middle].std() == pytest.approx(math.sqrt(x[middle].mean() / c), rel=0.15)
        assert abs(apart[middle].mean()) < 0.04


def test_blurs(images: np.ndarray) -> None:
    for severity in severities(images):
        c = parameters(images, "gaussian_blur", severity)
        check(images, "gaussian_blur", severity, [gaussian(x / 255, c) * 255 for x in images])

        radius, alias = parameters(images, "defocus_blur", severity)
        reach, taps = (8, 3) if radius <= 8 else (radius, 5)
        disk = np.array(
            [[y * y + x * x <= radius * radius for x in range(-reach, reach + 1)] for y in range(-reach, reach + 1)]
        )
        soft = np.exp(-0.5 * (np.arange(-(taps // 2), taps // 2 + 1) / alias) ** 2)
        soft /= soft.sum()
        kernel = ndimage.correlate1d(disk / disk.sum(), soft, 0, mode="mirror")
        kernel = ndimage.correlate1d(kernel, soft, 1, mode="mirror")
        expected = [
            np.stack([ndimage.correlate(x[..., i] / 255, kernel, mode="mirror") for i in range(3)], -1) for x in images
        ]
        if radius >= 1:
            check(images, "defocus_blur", severity, [255 * e for e in expected])

        radius, sigma = parameters(images, "motion_blur", severity)
        angles = -45 + 90 * torch.rand(len(images), generator=generator())
        expected = [
            moved(x.astype(float), radius, sigma, float(a)).round() for x, a in zip(images, angles, strict=True)
        ]
        check(images, "motion_blur", severity, expected)

        stop, step = parameters(images, "zoom_blur", severity)
        factors = np.arange(1, stop, step)
        expected = [(x / 255 + sum(zoomed(x / 255, f) for f in factors)) / (len(factors) + 1) * 255 for x in images]
        check(images, "zoom_blur", severity, expected)


def test_glass_blur_takes_pixels_in_the_published_order() -> None:
    """A loop over the pixels, from the last to the first, that copies views as numpy does."""
    size, reach = 20, 2
    images = torch.rand(3, 3, size, size)
    got = fields.scatter_pixels(images, reach, generator())
    inside = torch.arange(reach + 1, size - reach + 1).clamp(max=size - 1).unique()
    moves = torch.randint(-reach, reach, (2, 3, len(inside), len(inside)), generator=generator())
    for number in range(3):
        x = images[number].permute(1, 2, 0).numpy().copy()
        for h in range(size - reach, reach, -1):
            for w in range(size - reach, reach, -1):
                if h >= size or w >= size:
                    continue
                dy, dx = (int(m[number, h - reach - 1, w - reach - 1]) for m in moves)
                there = min(max(h + dy, 0), size - 1), min(max(w + dx, 0), size - 1)
                x[h, w], x[there] = x[there], x[h, w]
        np.testing.assert_array_equal(got[number].permute(1, 2, 0).numpy(), x)


def test_glass_blur(images: np.ndarray) -> None:
    sigma, reach, times = parameters(images, "glass_blur", 3)
    soft = np.stack([np.uint8(gaussian(x / 255, sigma) * 255) for x in images])
    x, draws = torch.from_numpy(soft).permute(0, 3, 1, 2).float(), generator()
    for _ in range(times):
        x = fields.scatter_pixels(x, reach, draws)
    expected = [gaussian(y / 255, sigma) * 255 for y in x.permute(0, 2, 3, 1).numpy()]
    check(images, "glass_blur", 3, expected, far=0.05)  # a last bit before the shuffle may move


def test_weather(images: np.ndarray) -> None:
    count, size = len(images), images.shape[1]
    for severity in severities(images):
        mean, spread, zoom, threshold, radius, sigma, share = parameters(images, "snow", severity)
        draws = generator()
        layers = (mean + spread * torch.randn(count, 1, size, size, generator=draws))[:, 0].double().numpy()
        angles = -135 + 90 * torch.rand(count, generator=draws)
        expected = []
        for image, layer, angle in zip(images, layers, angles, strict=True):
            layer = zoomed(layer[..., None], zoom)[..., 0]
            layer[layer < threshold] = 0
            layer = (np.clip(layer, 0, 1) * 255).astype(np.uint8).astype(float)
            layer = moved(layer, radius, sigma, float(angle)).round()[..., None] / 255
            x = image / 255
            gray = (x @ [0.299, 0.587, 0.114])[..., None]
            x = share * x + (1 - share) * np.maximum(x, gray * 1.5 + 0.5)
            expected.append(np.clip(x + layer + np.rot90(layer, 2), 0, 1) * 255)
        check(images, "snow", severity, expected, far=0.03)  # a pixel at the threshold becomes a streak

        strength, decay = parameters(images, "fog", severity)
        clouds = fields.plasma(count, size, decay, generator()).numpy()
        expected = [
            np.clip((x / 255 + strength * p[..., None]) * (x.max() / 255) / (x.max() / 255 + strength), 0, 1) * 255
            for x, p in zip(images, clouds, strict=True)
        ]
        check(images, "fog", severity, expected)


def test_plasma_is_the_diamond_square_algorithm() -> None:
    """A loop over the points; the wibbles are drawn level by level, squares before diamonds."""
    side, decay = 16, 2.0
    draws, field = generator(), np.zeros((side, side))
    step, wibble = side, 100.0
    while step >= 2:
        half = step // 2
        grid = range(0, side, step)
        noise = (2 * torch.rand(1, len(grid), len(grid), generator=draws) - 1)[0].numpy() * wibble * wibble
        for a, y in enumerate(grid):
            for b, x in enumerate(grid):
                corners = [field[(y + i) % side, (x + j) % side] for i in (0, step) for j in (0, step)]
                field[y + half, x + half] = sum(corners) / 4 + noise[a, b]
        for up, left in ((0, half), (half, 0)):
            noise = (2 * torch.rand(1, len(grid), len(grid), generator=draws) - 1)[0].numpy() * wibble * wibble
            for a, y in enumerate(grid):
                for b, x in enumerate(grid):
                    around = [(half, 0), (-half, 0), (0, half), (0, -half)]
                    near = [field[(y + up + i) % side, (x + left + j) % side] for i, j in around]
                    field[y + up, x + left] = sum(near) / 4 + noise[a, b]
        step, wibble = half, wibble / decay
    field = (field - field.min()) / (field.max() - field.min())
    np.testing.assert_allclose(fields.plasma(1, side, decay, generator())[0], field, atol=1e-4)


def test_frost_takes_the_photographs_and_without_them_says_so(images: np.ndarray) -> None:
    strength, share = parameters(images, "frost", 3)
    photograph = torch.full((3, 400 * (1 if images.shape[1] >= SMALL else 5), 500), 200, dtype=torch.uint8)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    got = corrupt(x, "frost", 3, generator(), frost=[photograph]).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(got, np.clip(strength * images + share * 200, 0, 255), atol=1.01)
    assert not np.array_equal(ours(images, "frost", 3), got)


def test_colour(images: np.ndarray) -> None:
    few = images[:1, ::4, ::4] if images.shape[1] > 32 else images[:1]
    large = images.shape[1] >= SMALL
    for severity in (1, 2, 4, 5):
        c = parameters(images, "contrast", severity)
        expected = [np.clip((x / 255 - (m := x.mean((0, 1)) / 255)) * c + m, 0, 1) * 255 for x in images]
        check(images, "contrast", severity, expected)
        for name in ("brightness", "saturate"):
            c = _C[name][large][severity - 1]

            def change(pixel: np.ndarray, name: str = name, c: object = c) -> tuple[float, float, float]:
                h, s, v = colorsys.rgb_to_hsv(*(pixel / 255))
                if name == "brightness":
                    v = min(max(v + c, 0), 1)  # type: ignore[operator]
                else:
                    s = min(max(s * c[0] + c[1], 0), 1)  # type: ignore[index]
                return colorsys.hsv_to_rgb(h, s, v)

            want = np.array([[[change(p) for p in row] for row in x] for x in few]) * 255
            got = ours(images, name, severity)[:1]
            got = got[:, ::4, ::4] if images.shape[1] > 32 else got
            assert np.abs(got.astype(int) - np.uint8(want).astype(int)).max() <= 1


def test_pixels_and_jpeg_are_those_of_pil(images: np.ndarray) -> None:
    size = images.shape[1]
    for severity in severities(images):
        c = parameters(images, "pixelate", severity)
        expected = []
        for x in images:
            small = Image.fromarray(x).resize((int(size * c), int(size * c)), Image.Resampling.BOX)
            expected.append(np.asarray(small.resize((size, size), Image.Resampling.BOX)))
        check(images, "pixelate", severity, expected)
        quality = parameters(images, "jpeg_compression", severity)
        expected = []
        for x in images:
            file = io.BytesIO()
            Image.fromarray(x).save(file, "JPEG", quality=quality)
            expected.append(np.asarray(Image.open(file)))
        check(images, "jpeg_compression", severity, expected, far=0.02)  # another build of libjpeg rounds otherwise


def test_elastic_transform(images: np.ndarray) -> None:
    count, size = len(images), images.shape[1]
    for severity in (1, 2, 4):
        strength, smooth, corner = (v * size for v in parameters(images, "elastic_transform", severity))
        draws = generator()
        shifts = (-corner + 2 * corner * torch.rand(count * 6, generator=draws)).view(count, 3, 2).double().numpy()
        noise = (2 * torch.rand(2, count, size, size, generator=draws) - 1).numpy()
        middle, square = size // 2, size // 3
        points = np.array([[middle + square] * 2, [middle + square, middle - square], [middle - square] * 2], float)
        y, x = np.mgrid[:size, :size].astype(float)
        expected = []
        for number, image in enumerate(images):
            # the affine map that takes the points to the moved ones, and each pixel's place before it
            ones = np.ones((3, 1))
            forward = np.linalg.solve(np.hstack([points, ones]), points + shifts[number]).T
            back = np.linalg.inv(np.vstack([forward, [0, 0, 1]]))
            at = back @ np.stack([x.ravel(), y.ravel(), np.ones(size * size)])
            warped = np.stack(
                [
                    ndimage.map_coordinates(image[..., i] / 255, [at[1], at[0]], order=1, mode="mirror").reshape(
                        size, size
                    )
                    for i in range(3)
                ],
                -1,
            )
            dx, dy = (
                gaussian(noise[i, number], smooth, mode="reflect", truncate=3) * strength if strength else 0 * x
                for i in (0, 1)
            )
            places = [(y + dy).ravel(), (x + dx).ravel()]
            channels = [
                ndimage.map_coordinates(warped[..., i], places, order=1, mode="reflect").reshape(size, size)
                for i in range(3)
            ]
            expected.append(np.clip(np.stack(channels, -1), 0, 1) * 255)
        check(images, "elastic_transform", severity, expected)


def test_spatter_of_mud(images: np.ndarray) -> None:
    count, size = len(images), images.shape[1]
    for severity in (4, 5):
        mean, spread, smooth, threshold, strength, mud = parameters(images, "spatter", severity)
        assert mud
        liquid = (mean + spread * torch.randn(count, 1, size, size, generator=generator()))[:, 0].double().numpy()
        expected = []
        for image, layer in zip(images, liquid, strict=True):
            mask = gaussian((gaussian(layer, smooth) > threshold).astype(float), strength)
            mask[mask < 0.8] = 0
            mask = mask[..., None]
            expected.append(np.clip(image / 255 * (1 - mask) + np.array([63, 42, 20]) / 255 * mask, 0, 1) * 255)
        check(images, "spatter", severity, expected)


def test_spatter_of_water_is_opencvs(images: np.ndarray) -> None:
    cv2 = pytest.importorskip("cv2")
    count, size = len(images), images.shape[1]
    for severity in (1, 2, 3):
        mean, spread, smooth, threshold, strength, mud = parameters(images, "spatter", severity)
        assert not mud
        liquid = (mean + spread * torch.randn(count, 1, size, size, generator=generator()))[:, 0].double().numpy()
        expected = []
        for image, layer in zip(images, liquid, strict=True):
            layer = gaussian(layer, smooth)
            layer[layer < threshold] = 0
            layer = (layer * 255).astype(np.uint8)
            far = cv2.distanceTransform(255 - cv2.Canny(layer, 50, 150), cv2.DIST_L2, 5)
            far = cv2.equalizeHist(cv2.blur(np.minimum(far, 20), (3, 3)).astype(np.uint8))
            far = cv2.filter2D(far, cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]))
            light = layer * cv2.blur(far, (3, 3)).astype(np.float32)
            light = light / light.max() * strength
            expected.append(np.clip(image / 255 + light[..., None] * np.array([175, 238, 238]) / 255, 0, 1) * 255)
        check(images, "spatter", severity, expected, far=0.03)


def test_every_corruption_changes_images_at_every_severity(images: np.ndarray) -> None:
    for name in COMMON + EXTRA:
        apart = [np.abs(ours(images, name, s).astype(int) - images).mean() for s in range(1, 6)]
        smallest = min(apart[2:]) if name == "defocus_blur" else min(apart)  # its first disks are one pixel
        assert smallest > 0.1 and apart[4] > 0.4 * max(apart), (name, apart)  # elastic's are not in order of strength


def test_corruptions_are_the_same_in_every_run(images: np.ndarray) -> None:
    for name in COMMON + EXTRA:
        np.testing.assert_array_equal(ours(images, name, 3), ours(images, name, 3))


def test_mce_of_alexnet_is_one() -> None:
    assert mean_corruption_error({n: [e] * 5 for n, e in ALEXNET_ERRORS.items()}, ALEXNET_ERRORS) == pytest.approx(1)
    half = {n: [e / 4, e * 3 / 4] for n, e in ALEXNET_ERRORS.items()}
    assert mean_corruption_error(half, ALEXNET_ERRORS) == pytest.approx(0.5)
