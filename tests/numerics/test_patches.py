"""Methods that look at patches: MAE and EMP-SSL, and the vision transformer, against loops, lightly and timm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import timm
import torch

from sslscale.data.batch import Batch
from sslscale.errors import ConfigError
from sslscale.methods.dinov2 import DINOv2
from sslscale.methods.dinov2.method import DINOv2Method
from sslscale.methods.emp_ssl.method import coding_rate, patch_invariance
from sslscale.methods.mae import MAE
from sslscale.methods.mae.method import Decoder, MAEMethod, mae_loss
from sslscale.nn.classifier import build_backbone
from sslscale.nn.positions import resize_positions, sincos_positions
from sslscale.nn.vit import VisionTransformer
from sslscale.nn.vit_blocks import patch_pixels
from sslscale.settings.model import ModelConfig


def patches(seed: int, count: int = 3, batch: int = 6, dim: int = 4) -> torch.Tensor:
    x = torch.randn(count, batch, dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(x, dim=2)


@pytest.mark.parametrize(("batch", "dim"), [(6, 4), (4, 6)])
def test_emp_ssl_is_equation_1(batch: int, dim: int) -> None:
    z = patches(0, batch=batch, dim=dim)
    rate = agreement = 0.0
    for part in z.double().numpy():
        gram = np.array([[sum(a * b for a, b in zip(u, v, strict=True)) for v in part] for u in part])
        sign, value = np.linalg.slogdet(np.eye(batch) + dim / (batch * 0.2) * gram)
        rate += sign * value / 2 / len(z)
    mean = z.double().numpy().mean(0)
    for part in z.double().numpy():
        for u, m in zip(part, mean, strict=True):
            agreement += float(u @ m) / math.sqrt(float(u @ u) * float(m @ m)) / (len(z) * batch)
    assert float(coding_rate(z, 0.2)) == pytest.approx(rate, rel=1e-5)
    assert float(patch_invariance(z)) == pytest.approx(agreement, rel=1e-5)


def test_emp_ssl_closed_forms() -> None:
    eye = torch.eye(4).expand(3, 4, 4)  # orthogonal images: d / (b eps^2) = 5
    assert float(coding_rate(eye, 0.2)) == pytest.approx(2 * math.log(6))
    same = torch.ones(3, 4, 4) / 2  # collapsed: one singular value of 4
    assert float(coding_rate(same, 0.2)) == pytest.approx(math.log(21) / 2, rel=1e-5)
    assert float(patch_invariance(same)) == pytest.approx(1)
    assert float(patch_invariance(torch.stack([eye[0], eye[0], eye[0]]))) == pytest.approx(1)


def test_emp_ssl_is_lightlys() -> None:
    losses: Any = pytest.importorskip("lightly.loss")
    z = patches(1, 5, 16, 8)
    # lightly 1.6 adds the rate, which the paper and the authors' code subtract
    ours = coding_rate(z, 0.2) - 200 * patch_invariance(z)
    torch.testing.assert_close(ours, losses.EMPSSLLoss()(list(z)), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("normalize", [True, False])
def test_mae_is_the_mean_squared_error_of_masked_patches(normalize: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 4, 4, generator=generator)
    predicted = torch.randn(2, 4, 12, generator=generator)
    masked = torch.tensor([[True, False, True, True], [False, True, True, True]])
    values = images.double().numpy()
    errors = []
    for i in range(2):
        for p in range(4):
            top, left = 2 * (p // 2), 2 * (p % 2)
            pixels = [values[i, c, top + y, left + x] for c in range(3) for y in range(2) for x in range(2)]
            if normalize:
                mean = sum(pixels) / 12
                variance = sum((v - mean) ** 2 for v in pixels) / 11
                pixels = [(v - mean) / math.sqrt(variance + 1e-6) for v in pixels]
            if masked[i, p]:
                told = predicted[i, p].double().tolist()
                errors.append(sum((a - b) ** 2 for a, b in zip(told, pixels, strict=True)) / 12)
    loss = mae_loss(predicted[masked], patch_pixels(images, 2)[masked], normalize)
    assert float(loss) == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_mae_sees_only_what_is_not_masked() -> None:
    torch.manual_seed(0)
    method = MAEMethod(MAE(masked=0.75, width=32, depth=1), ModelConfig(name="vit_32x2_4", grid=4))
    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    seen: list[torch.Tensor] = []
    method.backbone.blocks[0].register_forward_hook(lambda m, i, o: seen.append(o))  # type: ignore[arg-type]
    method({"images": Batch((x,), torch.arange(2))})
    assert seen[0].shape == (2, 1 + 4, 32)
    (gradient,) = torch.autograd.grad(seen[0].sum(), x)
    touched = patch_pixels(gradient, 4).abs().sum(2) > 0
    assert touched.sum(1).tolist() == [4, 4]
    assert method.backbone.positions.grad is None and not method.backbone.positions.requires_grad


def test_mae_compares_each_masked_patch_with_its_own_pixels() -> None:
    """A decoder that knows the image is right everywhere, and asked for all patches that were not seen."""
    torch.manual_seed(0)
    method = MAEMethod(MAE(masked=0.75, normalize=False, width=32, depth=1), ModelConfig(name="vit_32x1_4", grid=4))
    x = torch.randn(3, 3, 16, 16)
    asked: list[set[int]] = []

    class Knows(torch.nn.Module):
        def forward(self, tokens: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
            places = order[:, tokens.shape[1] - 1 :].tolist()
            asked.extend(set(row) for row in places)
            rows = []
            for image, row in zip(x, places, strict=True):
                corners = [(4 * (p // 4), 4 * (p % 4)) for p in row]
                rows.append(torch.stack([image[:, y : y + 4, z : z + 4].flatten() for y, z in corners]))
            return torch.stack(rows) + shift

    shift = 0.0
    method.decoder = Knows()  # type: ignore[assignment]
    batch = {"images": Batch((x,), torch.arange(3))}
    assert float(method(batch).total) == pytest.approx(0, abs=1e-12)
    shift = 0.5
    assert float(method(batch).total) == pytest.approx(0.25)
    images = x.clone().requires_grad_()
    seen: list[Any] = []
    method.backbone.register_forward_hook(lambda m, i, o: seen.append(o))
    method({"images": Batch((images,), torch.arange(3))})
    (gradient,) = torch.autograd.grad(seen[0].square().sum(), images)
    for touched, hidden in zip(patch_pixels(gradient, 4).abs().sum(2) > 0, asked, strict=False):
        assert set(touched.nonzero()[:, 0].tolist()) == set(range(16)) - hidden


@pytest.mark.parametrize("depth", [1, 2])
def test_the_decoder_is_the_published_one_whatever_the_order(depth: int) -> None:
    """As the authors do: mask tokens where patches are missing, all tokens decoded, the masked ones read."""
    torch.manual_seed(0)
    decoder = Decoder(24, 32, depth, 3, 12).double()
    tokens = torch.randn(2, 1 + 4, 24, dtype=torch.float64)
    order = torch.stack([torch.randperm(9) for _ in range(2)])
    whole = decoder.mask_token.expand(2, 9, 32).clone()
    for i in range(2):
        for n in range(4):
            whole[i, order[i, n]] = decoder.embed(tokens[i, 1 + n])
    x = torch.cat([decoder.embed(tokens[:, :1]), whole], 1) + decoder.positions
    for block in decoder.blocks:
        x = block(x)
    pixels = decoder.pixels(decoder.norm(x))[:, 1:]
    expected = torch.stack([pixels[i, order[i, 4:]] for i in range(2)])
    torch.testing.assert_close(decoder(tokens, order), expected)


def test_every_patch_is_masked_alike_often() -> None:
    torch.manual_seed(0)
    method = MAEMethod(MAE(masked=0.75, width=32, depth=1), ModelConfig(name="vit_32x1_4", grid=4))
    x = torch.randn(4000, 3, 16, 16)
    patches, _ = method.backbone.patches(x)
    patches = patches + method.backbone.positions[:, 1:]
    seen: list[torch.Tensor] = []
    method.backbone.blocks[0].register_forward_pre_hook(lambda m, i: seen.append(i[0][:, 1:]))  # type: ignore[arg-type]
    with torch.no_grad():
        method({"images": Batch((x,), torch.arange(4000))})
        kept = (torch.cdist(patches, seen[0]) < 1e-3).any(2).float()
    assert kept.sum(1).eq(4).all()
    torch.testing.assert_close(kept.mean(0), torch.full((16,), 0.25), atol=0.03, rtol=0)


def test_dinov2s_student_does_not_see_masked_patches_and_its_teacher_sees_all() -> None:
    torch.manual_seed(0)
    recipe = DINOv2(prototypes=16, hidden=16, bottleneck=8)
    method = DINOv2Method(recipe, ModelConfig(name="vit_32x1_4", grid=4))
    torch.nn.init.normal_(method.mask_token)
    images = Batch((*torch.randn(2, 8, 3, 16, 16), *torch.randn(2, 8, 3, 8, 8)), torch.arange(8))
    entered: dict[str, list[torch.Tensor]] = {"student": [], "teacher": []}
    for name, network in (("student", method.backbone), ("teacher", method.teacher)):
        network.blocks[0].register_forward_pre_hook(lambda m, i, name=name: entered[name].append(i[0][:, 1:]))  # type: ignore[arg-type]
    method({"images": images})
    masked = method._masks(images, 4)
    assert 0 < int(masked.sum()) < masked.numel()
    both, positions = torch.cat(images.views[:2]), method.backbone.positions[:, 1:]
    whole = method.backbone.patches(both)[0] + positions  # the teacher starts as the student
    hidden = torch.where(masked[..., None], method.mask_token, method.backbone.patches(both)[0]) + positions
    assert [len(entered[name]) for name in ("teacher", "student")] == [1, 2]  # small crops are the student's alone
    torch.testing.assert_close(entered["teacher"][0], whole)
    torch.testing.assert_close(entered["student"][0], hidden)


def test_methods_of_patches_want_a_vit() -> None:
    for method, recipe in ((MAEMethod, MAE()), (DINOv2Method, DINOv2(prototypes=16))):
        with pytest.raises(ConfigError, match="take a vit_SIZE_PATCH"):
            method(recipe, ModelConfig(name="wrn_10_1"))  # type: ignore[arg-type]


# --- the vision transformer ---------------------------------------------------------------------------------------


def test_a_vit_is_timms_with_its_weights() -> None:
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    with torch.no_grad():
        theirs.cls_token.normal_()  # type: ignore[operator]
    ours, width = build_backbone(ModelConfig(name="vit_tiny_16"))
    assert width == 192 and isinstance(ours, VisionTransformer)
    weights = {}
    for name, value in theirs.state_dict().items():
        name = name.replace("patch_embed.proj", "patch_embed").replace("pos_embed", "positions")
        weights[name.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.2")] = value
    ours.load_state_dict(weights)
    x = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(x), theirs(x), rtol=1e-4, atol=1e-4)
        attention = ours.attention(x)
    assert attention.shape == (2, 3, 14, 14)
    assert 0 < float(attention.sum((2, 3)).max()) < 1  # the rest goes to the class token itself


@pytest.mark.parametrize("survival", [1.0, 0.5])
@pytest.mark.parametrize("registers", [0, 2])
def test_a_last_block_computes_what_is_read_of_it_and_nothing_else_changes(registers: int, survival: float) -> None:
    torch.manual_seed(0)
    model = ModelConfig(name="vit_32x3_4", grid=4, registers=registers, survival=survival, layer_scale=0.1)
    network, _ = build_backbone(model)
    assert isinstance(network, VisionTransformer)
    network.double()
    x = torch.randn(8, 3, 16, 16, dtype=torch.float64)
    masked = torch.rand(8, 16) < 0.4
    masked[0] = False
    sizes: list[torch.Size] = []
    network.blocks[-1].mlp.register_forward_hook(lambda m, i, o: sizes.append(o.shape))  # type: ignore[union-attr, operator, arg-type]

    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(loss, [p for p in network.parameters()], allow_unused=True))

    torch.manual_seed(1)
    cls, patches = network.tokens(x)
    torch.manual_seed(1)
    some, rows = network.masked_tokens(x, masked)
    torch.manual_seed(1)
    features = network(x)
    count = int(masked.sum())
    assert sizes == [(8, 17 + registers, 32), (8 + count, 32), (8, 1, 32)]
    torch.testing.assert_close(some, cls)
    torch.testing.assert_close(features, cls)
    torch.testing.assert_close(rows, patches[masked])
    weight = torch.randn_like(rows)
    full = gradients(cls.square().sum() + (patches[masked] * weight).sum())
    for own, other in zip(gradients(some.square().sum() + (rows * weight).sum()), full, strict=True):
        torch.testing.assert_close(own, other)
    everything = torch.zeros(32, dtype=torch.float64)
    hidden, _ = network.eval().masked_tokens(x, torch.ones_like(masked), everything)
    torch.testing.assert_close(hidden, hidden[:1].expand_as(hidden))  # no image is left to tell apart


def test_positions_are_resized_bicubically() -> None:
    positions = torch.randn(1, 1 + 36, 2, generator=torch.Generator().manual_seed(0))
    assert resize_positions(positions, 6) is positions
    larger = resize_positions(positions, 12)
    assert larger.shape == (1, 145, 2) and torch.equal(larger[:, 0], positions[:, 0])

    def weight(x: float) -> float:  # Keys' cubic with a = -.75
        x = abs(x)
        if x < 1:
            return 1.25 * x**3 - 2.25 * x**2 + 1
        return -0.75 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    square = positions[0, 1:].view(6, 6, 2).double()
    for row, column in ((0, 0), (3, 8), (11, 5)):
        y, x = (row + 0.5) / 2 - 0.5, (column + 0.5) / 2 - 0.5  # half-pixel centres
        expected = torch.zeros(2, dtype=torch.float64)
        for j in range(math.floor(y) - 1, math.floor(y) + 3):
            for i in range(math.floor(x) - 1, math.floor(x) + 3):
                expected += weight(y - j) * weight(x - i) * square[min(max(j, 0), 5), min(max(i, 0), 5)]
        torch.testing.assert_close(larger[0, 1 + 12 * row + column].double(), expected, atol=1e-5, rtol=1e-5)
    network, _ = build_backbone(ModelConfig(name="vit_32x2_4", grid=6, registers=3, pool="mean"))
    for size in (16, 24, 48):
        assert network(torch.randn(2, 3, size, size)).shape == (2, 32)
    with pytest.raises(ValueError, match="not squares of patches"):
        network(torch.randn(2, 3, 18, 18))


def test_sincos_positions_are_the_published_formula() -> None:
    width, side = 8, 3
    found = sincos_positions(width, side)[0]
    assert found[0].tolist() == [0] * width
    for row in range(side):
        for column in range(side):
            expected = []
            for place in (column, row):
                angles = [place / 10_000 ** (k / 2) for k in range(2)]
                expected += [*map(math.sin, angles), *map(math.cos, angles)]
            torch.testing.assert_close(found[1 + row * side + column], torch.tensor(expected))


@pytest.mark.parametrize("name", ["vit_16x2_4", "vit_33x2_4", "vit_huge_4", "vit_tiny"])
def test_unknown_vit_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        ModelConfig(name=name)
    with pytest.raises(ValueError, match="for vit_SIZE_PATCH alone"):
        ModelConfig(name="wrn_10_1", registers=4)
