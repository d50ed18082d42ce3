"""ResNets against torchvision's, layer-wise learning rates, and backbones that others load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision

from sslscale.errors import ConfigError
from sslscale.graph.context import RunContext
from sslscale.nn.classifier import build_backbone, build_classifier, num_parameters
from sslscale.nn.pointwise import Pointwise
from sslscale.nn.resnet import ResNet
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.train import OptimConfig
from sslscale.train import checkpoint
from sslscale.train.export import export_model
from sslscale.train.optim import build_optimizer


def test_resnets_are_torchvisions_with_their_weights() -> None:
    x = torch.randn(2, 3, 64, 64)
    for depth in (18, 50):
        theirs = getattr(torchvision.models, f"resnet{depth}")().eval()
        ours = ResNet(depth).eval()
        found = ours.load_state_dict(theirs.state_dict(), strict=False)
        assert found.missing_keys == [] and found.unexpected_keys == ["fc.weight", "fc.bias"]
        theirs.fc = torch.nn.Identity()
        with torch.inference_mode():
            torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_width_multiplies_channels_and_small_images_keep_their_size() -> None:
    for width, count in ((1, 24), (2, 94), (4, 375)):  # SimCLR's table 6: millions of weights
        network, features = build_backbone(ModelConfig(name=f"resnet_50_{width}"))
        assert round(num_parameters(network) / 1e6) == pytest.approx(count, abs=1) and features == 2048 * width
    small, features = build_backbone(ModelConfig(name="resnet_18", small_images=True))
    assert features == 512
    with torch.inference_mode():
        stem = small.maxpool(small.bn1(small.conv1(torch.randn(1, 3, 32, 32))))  # type: ignore[operator]
        assert stem.shape == (1, 64, 32, 32)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_narrow_shortcut_has_its_gradients_with_channels_last(stride: int) -> None:
    """oneDNN's own gradients of a strided 1x1 convolution with few channels are wrong, or end the process."""
    torch.manual_seed(0)
    layer = Pointwise(8, 16, stride).to(memory_format=torch.channels_last)
    images = torch.randn(4, 8, 192, 192).contiguous(memory_format=torch.channels_last)
    found = layer(images)
    wanted = torch.randn_like(found)
    found.backward(wanted)
    seen = images.double()[..., ::stride, ::stride]
    assert layer.weight.grad is not None
    expected = torch.einsum("bohw,bihw->oi", wanted.double(), seen)
    torch.testing.assert_close(layer.weight.grad[:, :, 0, 0].double(), expected, rtol=1e-4, atol=1e-2)
    with torch.no_grad():
        torch.testing.assert_close(layer(images), found)


def test_a_stem_of_stride_2_halves_the_side() -> None:
    x = torch.randn(2, 3, 32, 32)
    for stride in (1, 2):
        network, _ = build_backbone(ModelConfig(name="wrn_10_2", stem_stride=stride))
        assert network.stem(x).shape[2:] == (32 // stride, 32 // stride)  # type: ignore[operator]
        assert network(x).shape == (2, 128)
    with pytest.raises(ValueError, match="is for wrn_DEPTH_WIDTH alone"):
        ModelConfig(name="resnet_18", stem_stride=2)


def test_a_resnext_is_the_papers_with_mish_and_slow_batch_norms() -> None:
    """Its size (arXiv:1611.05431, table 6: 34.4 million weights on CIFAR-10), and one block by hand."""
    large = build_classifier(ModelConfig(name="resnext_29_8x64"), 10)
    assert num_parameters(large) / 1e6 == pytest.approx(34.4, abs=0.05)
    network, features = build_backbone(ModelConfig(name="resnext_28_4x4"))
    assert features == 1024 and len(network.blocks) == 6  # type: ignore[arg-type]
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.001}
    with torch.inference_mode():
        network.eval()
        assert network(torch.randn(2, 3, 32, 32)).shape == (2, 1024)
        assert network(torch.randn(2, 3, 32, 32), maps=True).shape == (2, 1024, 8, 8)
        block = network.blocks[0].eval()  # type: ignore[index, operator]
        x = torch.randn(1, 64, 5, 5)

        def mish(x: torch.Tensor) -> torch.Tensor:
            return x * torch.tanh(torch.log1p(x.exp()))

        def normed(x: torch.Tensor) -> torch.Tensor:  # by fresh statistics: mean 0, variance 1
            return x / (1 + 1e-5) ** 0.5

        inner = mish(normed(torch.einsum("oi,bihw->bohw", block.reduce.weight[:, :, 0, 0], x)))
        groups = [
            torch.nn.functional.conv2d(part, weight, padding=1)
            for part, weight in zip(inner.chunk(4, 1), block.grouped.weight.chunk(4, 0), strict=True)
        ]
        inner = mish(normed(torch.cat(groups, 1)))
        out = normed(torch.einsum("oi,bihw->bohw", block.expand.weight[:, :, 0, 0], inner))
        around = normed(torch.einsum("oi,bihw->bohw", block.shortcut[0].weight[:, :, 0, 0], x))
        torch.testing.assert_close(block(x), mish(out + around), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet_19", "resnet_50_", "resnext_30_4x4", "resnet50", "wrn_11_2", "wrn_10_0"])
def test_unknown_network_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is none of wrn_DEPTH_WIDTH"):
        ModelConfig(name=name)


def test_each_layer_of_a_vit_has_its_rate() -> None:
    network = build_classifier(ModelConfig(name="timm:vit_tiny_patch16_224"), 10)
    config = OptimConfig(name="adamw", lr=1.0, layer_decay=0.5, weight_decay=0.05)
    shares = {
        id(p): (group["share"], group["weight_decay"])
        for group in build_optimizer(network, config).param_groups
        for p in group["params"]
    }
    named = dict(network.named_parameters())
    assert shares[id(named["head.weight"])] == (1.0, 0.05) and shares[id(named["backbone.norm.weight"])] == (1.0, 0.0)
    assert shares[id(named["backbone.blocks.11.attn.qkv.weight"])][0] == 0.5
    assert shares[id(named["backbone.blocks.0.attn.qkv.weight"])][0] == 0.5**12
    assert shares[id(named["backbone.patch_embed.proj.weight"])][0] == 0.5**13
    assert shares[id(named["backbone.pos_embed"])][0] == 0.5**13
    with pytest.raises(ConfigError, match="the network has no blocks"):
        build_optimizer(torch.nn.Linear(2, 2), config)


def save(ctx: RunContext, name: str, **more: bool) -> tuple[Path, torch.nn.Module]:
    torch.manual_seed(0)
    model, image = ModelConfig(name=name, **more), ImageConfig(size=64)  # type: ignore[arg-type]
    network = build_classifier(model, 5)
    for module in network.modules():  # statistics unlike those of a new network
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
    checkpoint.save_model(ctx.path, network, checkpoint.describe_model(network, model, image, tuple("abcde")))
    return ctx.path, network.backbone.eval()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_an_exported_resnet_is_loaded_by_timm_torchvision_and_a_detector(
    tmp_path: Path, context: Callable[..., RunContext], suffix: str
) -> None:
    from safetensors.torch import load_file
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    folder, backbone = save(context("model"), "resnet_18")
    out = tmp_path / f"backbone{suffix}"
    assert "timm.create_model" in export_model(folder, out)
    weights = load_file(out) if suffix == ".safetensors" else torch.load(out, weights_only=True)
    x = torch.randn(2, 3, 64, 64)
    theirs = timm.create_model("resnet18", num_classes=0, checkpoint_path=str(out)).eval()
    plain = torchvision.models.resnet18()
    found = plain.load_state_dict(weights, strict=False)
    assert found.unexpected_keys == [] and found.missing_keys == ["fc.weight", "fc.bias"]
    plain.fc = torch.nn.Identity()  # type: ignore[assignment]
    pyramid = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=torch.nn.BatchNorm2d, trainable_layers=5
    )
    missing = pyramid.body.load_state_dict(weights, strict=False)
    assert missing.missing_keys == []
    detector = FasterRCNN(pyramid, num_classes=3, min_size=64, max_size=64).eval()
    with torch.inference_mode():
        want = backbone(x)
        torch.testing.assert_close(theirs(x), want, rtol=1e-4, atol=1e-5)
        plain.eval()
        torch.testing.assert_close(plain(x), want, rtol=1e-4, atol=1e-5)
        last = list(pyramid.body(x).values())[-1]
        torch.testing.assert_close(last.mean((2, 3)), want, rtol=1e-4, atol=1e-5)
        assert set(detector([x[0]])[0]) == {"boxes", "labels", "scores"}


def test_an_exported_timm_model_is_loaded_by_timm(tmp_path: Path, context: Callable[..., RunContext]) -> None:
    folder, backbone = save(context("model"), "timm:resnet10t")
    export_model(folder, tmp_path / "b.safetensors")
    theirs = timm.create_model("resnet10t", num_classes=0, checkpoint_path=str(tmp_path / "b.safetensors")).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(x), backbone(x), rtol=1e-4, atol=1e-5)


def test_what_timm_lacks_is_exported_by_its_own_names(tmp_path: Path, context: Callable[..., RunContext]) -> None:
    folder, _ = save(context("wide"), "wrn_10_1")
    assert "init: {weights:" in export_model(folder, tmp_path / "b.pth")
    vit, _ = save(context("vit"), "vit_32x1_4", pool="mean")  # pyright: ignore[reportArgumentType]
    assert "init: {weights:" in export_model(vit, tmp_path / "x.pth")  # timm pools otherwise
    small, _ = save(context("small"), "resnet_18", small_images=True)
    assert "init: {weights:" in export_model(small, tmp_path / "b.pth")  # another stem
    with pytest.raises(ConfigError, match="name a"):
        export_model(small, tmp_path / "b.bin")
