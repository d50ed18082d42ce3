"""Images of other channels than three and of 16 bits: through augmentation, first layers and every method."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from timm.models._manipulate import adapt_input_conv
from torchvision.transforms.v2 import functional as theirs

import sslscale
from sslscale.data import augment, geometry, ops
from sslscale.data.batch import Batch
from sslscale.data.plan import make_plan, num_draws
from sslscale.methods.method import StepInfo, build_method
from sslscale.nn.classifier import build_backbone
from sslscale.nn.first_layer import adapt, adapted, input_channels
from sslscale.settings.augment import AugmentConfig, BlurConfig, JitterConfig, RandAugmentConfig
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.train import TrainConfig
from sslscale.train.engine import Engine
from tests.configurations import CONFIGS, batch_of

OTHERS = sorted(name for name, config in CONFIGS.items() if not config.method.rgb_only)
# those that do more with an image than give it to the network
FEW = ("mae", "pirl", "ijepa", "dinov2", "rotation", "fixmatch_ctaugment", "remixmatch_ctaugment", "mixmatch", "vat")


def images_of(config: TrainConfig, channels: int) -> TrainConfig:
    """The same training on images of other channels, without a hue."""

    def plain(view: AugmentConfig) -> AugmentConfig:
        return view if view.jitter is None else dataclasses.replace(view, jitter=JitterConfig(hue=0.0))

    image = dataclasses.replace(config.image, channels=channels, mean=(0.4,) * channels, std=(0.3,) * channels)
    views = {name: plain(view) for name, view in config.views.items()}
    return dataclasses.replace(config, image=image, augment=plain(config.augment), views=views)


@pytest.mark.parametrize("name", [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in OTHERS])
def test_every_method_learns_from_five_channels(name: str) -> None:
    config = dataclasses.replace(images_of(CONFIGS[name], 5), sync_batch_norm=False)
    torch.manual_seed(0)
    method = build_method(config.method, config.model, 10)
    method.prepare(dict.fromkeys(config.batch_sizes, 200), config)
    engine = Engine(method, config, 8, torch.device("cpu"))
    first = next(m for m in method.modules() if isinstance(m, torch.nn.Conv2d))
    before = first.weight.detach().clone()
    assert before.shape[1] == 5
    parts: dict[str, torch.Tensor] = {}
    for step in range(2):  # the first may have a rate of 0, or a frozen layer
        batch = {stream: batch_of(config, stream, size, step) for stream, size in config.batch_sizes.items()}
        parts, _ = engine.train_step(batch, StepInfo(step, step / 8, 3.0))
    assert np.isfinite(float(parts["loss"]))
    assert ((first.weight - before).abs().amax((0, 2, 3)) > 0).all()  # it looks at every channel


def test_methods_of_colours_refuse_other_images() -> None:
    refused = sorted(set(CONFIGS) - set(OTHERS))
    assert {"colorization", "jigsaw", "clip", "tracking", "detection", "text_uda"} <= set(refused)
    for name in refused:
        with pytest.raises(ValueError, match="takes 8-bit RGB images alone, not 5 channels of 8 bits"):
            images_of(CONFIGS[name], 5)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
@pytest.mark.parametrize("name", ["wrn_10_0.5", "resnet_18_0.25", "vit_32x2_4", "resnext_11_4x4", "timm:resnet18"])
def test_networks_take_any_channels(name: str, channels: int) -> None:
    small = ModelConfig(name=name) if not name.startswith("vit") else ModelConfig(name=name, grid=8)
    image = ImageConfig(size=32, channels=channels, mean=(0.5,) * channels, std=(0.2,) * channels)
    network, width = build_backbone(small.fitted(image))
    assert input_channels(network) == channels
    assert network.eval()(torch.rand(2, channels, 32, 32)).shape == (2, width)


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 6])
def test_first_layers_are_adapted_as_timm_adapts_them(channels: int) -> None:
    weight = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(adapted(weight, channels), adapt_input_conv(channels, weight.clone()))
    if channels % 3 and channels > 1:
        return
    # an image whose channels are alike gives what a gray image gave
    gray = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(1))
    expected = torch.conv2d(gray.expand(-1, 3, -1, -1), weight)
    torch.testing.assert_close(torch.conv2d(gray.expand(-1, channels, -1, -1), adapted(weight, channels)), expected)


def test_only_the_first_layer_is_adapted() -> None:
    ours = {"stem": torch.rand(4, 3, 3, 3), "other": torch.rand(4, 3, 1, 1), "bias": torch.rand(4)}
    wanted = {"stem": torch.empty(4, 5, 3, 3), "other": torch.empty(4, 3, 1, 1), "bias": torch.empty(4)}
    made = adapt(ours, wanted)
    assert made["stem"].shape == (4, 5, 3, 3) and made["other"] is ours["other"] and made["bias"] is ours["bias"]
    assert adapt(ours, {"stem": torch.empty(9, 5, 3, 3)})["stem"] is ours["stem"]  # of another layer: told as misshapen


# --- operations -------------------------------------------------------------------------------------------------


def gray_images(count: int = 6, size: int = 17) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_operations_on_one_channel_are_torchvisions() -> None:
    images = gray_images()
    factor = torch.tensor([0.0, 0.4, 0.9, 1.0, 1.3, 2.0])
    for own, other in (
        (ops.brightness, theirs.adjust_brightness),
        (ops.contrast, theirs.adjust_contrast),
        (ops.saturation, theirs.adjust_saturation),
        (ops.sharpness, theirs.adjust_sharpness),
    ):
        found = own(images, factor).int()
        expected = torch.stack([other(i, f) for i, f in zip(images, factor.tolist(), strict=True)]).int()
        assert (found - expected).abs().max() <= 1, own.__name__
    assert ops.equalize(images).equal(theirs.equalize(images))
    assert (ops.autocontrast(images).int() - theirs.autocontrast(images).int()).abs().max() <= 1
    assert ops.grayscale(images).equal(images)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_jitter_of_any_channels_is_the_formula_on_each(channels: int) -> None:
    """Each pass in float64, image by image: brightness f x, contrast and saturation against the channels' mean."""
    config = AugmentConfig(jitter=JitterConfig(p=1.0, hue=0.0))
    count, size = 5, 8
    images = torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0)) * 255
    draws = torch.rand(count, num_draws(config), generator=torch.Generator().manual_seed(1))
    plan = make_plan(draws, config, size, size, size)
    expected = images.double()
    rest = draws[:, 5:17].double()  # behind the five numbers that every view has
    for row in range(count):
        order = torch.argsort(rest[row, 5:9]).tolist()
        for which in order:
            if which == 3:
                continue  # the hue
            strength = 0.8
            f = 1 - strength + 2 * strength * rest[row, 1 + which]
            x = expected[row]
            mean = x.mean(0, keepdim=True)
            other = {0: torch.zeros_like(mean), 1: mean.mean().expand_as(mean), 2: mean}[which]
            expected[row] = (f * x + (1 - f) * other).clamp(0, 255)
    found = augment.normalize(images, (0.0,) * channels, (1.0,) * channels)
    torch.testing.assert_close(found.double() * 255, images.double(), rtol=0, atol=1e-3)
    assert plan.colors is not None and plan.hue is not None and plan.hue_place is not None
    assert (plan.hue_place == -1).all()
    made = ops.color_jitter(images.clone(), plan.colors, [])
    torch.testing.assert_close(made, images)  # no pass, no change
    nothing = torch.zeros(0, dtype=torch.int64)
    made = ops.color_jitter(images.clone(), plan.colors, [(nothing, torch.zeros(0))] * 4)
    torch.testing.assert_close(made.double(), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_go_through_every_operation_without_rounding(channels: int) -> None:
    """The view of 16-bit images is that of the same numbers as floats, and differs from that of their upper 8 bits."""
    config = AugmentConfig(
        crop="resized",
        flip=True,
        jitter=JitterConfig(hue=0.1 if channels == 3 else 0.0),
        grayscale=0.2,
        blur=BlurConfig(p=0.5),
        solarize=0.2,
        randaugment=RandAugmentConfig(magnitude=4, operations=("rotate", "brightness", "sharpness", "solarize_add")),
        cutout=0.3,
        erase=0.3,
    )
    generator = torch.Generator().manual_seed(channels)
    deep = torch.randint(0, 65536, (16, channels, 20, 20), generator=generator, dtype=torch.int32).to(torch.uint16)
    draws = torch.rand(16, num_draws(config), generator=generator)
    plan = make_plan(draws, config, 12, 20, 20)
    mean, std = (0.45,) * channels, (0.25,) * channels
    found = augment.make_view(deep, plan, config, 12, mean, std)
    whole = augment.augment(deep, plan, config, 12)
    assert whole.is_floating_point() and found.shape == (16, channels, 12, 12)
    torch.testing.assert_close(found, augment.normalize(whole, mean, std), rtol=0, atol=1e-5)
    boxes = plan.boxes
    assert boxes is not None and plan.mirrored is not None
    alone = geometry.resized_crop(deep.float() / 257, boxes, 12, plan.mirrored)
    plain = AugmentConfig(crop="resized", flip=True)
    first = augment.augment(deep, make_plan(draws[:, : num_draws(plain)], plain, 12, 20, 20), plain, 12)
    assert first.shape == alone.shape
    eight = augment.make_view((deep.int() // 257).to(torch.uint8), plan, config, 12, mean, std)
    assert 1e-4 < (found - eight).abs().mean() < 0.1  # near, but not the same


@pytest.mark.parametrize("operations", [("equalize",), ("posterize",)])
def test_what_counts_values_takes_256_levels_of_sixteen_bits(operations: tuple[str, ...]) -> None:
    config = AugmentConfig(randaugment=RandAugmentConfig(num_ops=1, magnitude=5, operations=operations))
    generator = torch.Generator().manual_seed(0)
    eight = torch.randint(0, 256, (4, 2, 9, 9), generator=generator, dtype=torch.uint8)
    deep = (eight.int() * 257).to(torch.uint16)
    plan = make_plan(torch.rand(4, num_draws(config), generator=generator), config, 9, 9, 9)
    found = augment.augment(deep, plan, config, 9)
    assert found.is_floating_point()
    assert found.to(torch.uint8).equal(augment.augment(eight, plan, config, 9))


def test_a_method_for_a_loop_of_ones_own_takes_channels() -> None:
    made = sslscale.method("simclr", model="resnet_18_0.25", channels=2)
    views = (torch.rand(4, 2, 16, 16), torch.rand(4, 2, 16, 16))
    assert made({"images": Batch(views, torch.arange(4))}).total.isfinite()
    with pytest.raises(ValueError, match="channels: colorization takes RGB images alone"):
        sslscale.method("colorization", model="resnet_18_0.25", channels=2)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_kernels_give_what_operations_on_batches_give(channels: int, bits: int) -> None:
    pytest.importorskip("numba")
    config = AugmentConfig(
        crop="resized",
        flip=True,
        jitter=JitterConfig(hue=0.1 if channels == 3 else 0.0),
        grayscale=0.3,
        blur=BlurConfig(p=0.5),
        solarize=0.3,
    )
    generator = torch.Generator().manual_seed(channels)
    kind = torch.uint8 if bits == 8 else torch.uint16
    images = torch.randint(0, 1 << bits, (24, channels, 20, 18), generator=generator, dtype=torch.int32).to(kind)
    plan = make_plan(torch.rand(24, num_draws(config), generator=generator), config, 12, 20, 18)
    mean, std = (0.45,) * channels, tuple(0.2 + 0.01 * c for c in range(channels))
    found = augment.make_view(images, plan, config, 12, mean, std)
    expected = augment.normalize(augment.augment(images, plan, config, 12), mean, std)
    # an image that is solarized may have a value on either side of the threshold
    assert ((found - expected).abs() < 2e-3).float().mean() > 0.999
    assert found.is_contiguous(memory_format=torch.channels_last) or channels == 1
