"""Round trips: what a checkpoint says of images is what the exported model says of them in the other library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from sslscale.errors import ConfigError
from sslscale.nn.classifier import build_backbone, build_classifier
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.train import checkpoint
from sslscale.train.export import export_model
from sslscale.train.public_weights import read_backbone

NETWORKS = {
    "wrn": ModelConfig(name="wrn_10_0.5"),
    "resnet": ModelConfig(name="resnet_18"),
    "small": ModelConfig(name="resnet_18_0.25", small_images=True),
    "vit": ModelConfig(name="vit_64x2_8", grid=4, registers=2, layer_scale=0.1),
    "timm": ModelConfig(name="timm:resnet10t"),
}
IMAGE = ImageConfig(size=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
CLASSES = ("cat", "dog", "owl")


def saved(folder: Path, name: str, *, head: bool = True) -> torch.nn.Module:
    torch.manual_seed(0)
    network: Any = build_classifier(NETWORKS[name], 3) if head else build_backbone(NETWORKS[name])[0]
    for value in network.parameters():
        torch.nn.init.normal_(value, std=0.1)
    folder.mkdir(exist_ok=True)
    checkpoint.save_model(folder, network, checkpoint.describe_model(network, NETWORKS[name], IMAGE, CLASSES))
    return network.eval()


def pictures(count: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Images from 0 to 1, and normalised."""
    images = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return images, (images - torch.tensor(IMAGE.mean).view(3, 1, 1)) / torch.tensor(IMAGE.std).view(3, 1, 1)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_a_graph_takes_plain_images_and_any_batch(name: str, kind: str, tmp_path: Path) -> None:
    network: Any = saved(tmp_path / "model", name)
    images, normed = pictures()
    out = tmp_path / ("m.onnx" if kind == "onnx" else "m.pt")
    export_model(tmp_path / "model", out)
    with torch.no_grad():
        expected = [network.backbone(normed), network(normed).softmax(-1)]
        if kind == "onnx":
            import onnxruntime

            session = onnxruntime.InferenceSession(str(out))
            assert [o.name for o in session.get_outputs()] == ["features", "probabilities"]
            found: list[Any] = list(session.run(None, {"images": images.numpy()}))
            assert session.run(None, {"images": images[:1].numpy()})[1].shape == (1, 3)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            found = [x.numpy() for x in torch.jit.load(str(out))(images)]  # pyright: ignore[reportAttributeAccessIssue]
    for mine, theirs in zip(expected, found, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-3, atol=1e-4)
    assert json.loads(out.with_name(out.name + ".json").read_text())["classes"] == list(CLASSES)


@pytest.mark.parametrize("name", ["resnet", "vit", "timm"])
def test_a_folder_is_timms_model_with_the_classes(name: str, tmp_path: Path) -> None:
    network = saved(tmp_path / "model", name)
    export_model(tmp_path / "model", tmp_path / "folder")
    theirs: Any = timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True).eval()
    _, normed = pictures()
    with torch.no_grad():
        torch.testing.assert_close(theirs(normed), network(normed), rtol=1e-4, atol=1e-4)
    fed = theirs.pretrained_cfg
    assert list(fed["mean"]) == list(IMAGE.mean) and list(fed["input_size"]) == [3, 32, 32]
    card = (tmp_path / "folder" / "README.md").read_text()
    assert "- owl" in card and "mean [0.4, 0.5, 0.6]" in card and "image-classification" in card
    with pytest.raises(ConfigError, match="is there already"):
        export_model(tmp_path / "model", tmp_path / "folder")


def test_a_vits_weights_come_back_by_timms_names(tmp_path: Path) -> None:
    network = saved(tmp_path / "model", "vit", head=False)
    export_model(tmp_path / "model", tmp_path / "w.safetensors")
    again = read_backbone(tmp_path / "w.safetensors", NETWORKS["vit"])
    _, normed = pictures()
    with torch.no_grad():
        torch.testing.assert_close(again(normed), network(normed), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["wrn", "small"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_networks_that_timm_lacks_come_back_by_their_own_names(
    name: str, suffix: str, tmp_path: Path
) -> None:
    network: Any = saved(tmp_path / "model", name)
    export_model(tmp_path / "model", out := tmp_path / f"w{suffix}")
    assert "init: {weights:" in json.loads(out.with_name(out.name + ".json").read_text())["load"]
    again = read_backbone(out, NETWORKS[name])
    _, normed = pictures()
    with torch.no_grad():
        torch.testing.assert_close(again(normed), network.backbone(normed))


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_transformers_loads_the_folder_of_every_network(
    name: str, head: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    network = saved(tmp_path / "model", name, head=head)
    export_model(tmp_path / "model", folder := tmp_path / "folder")
    kind = transformers.AutoModelForImageClassification if head else transformers.AutoModel
    theirs = kind.from_pretrained(folder, trust_remote_code=True).eval()
    images, normed = pictures()
    with torch.no_grad():
        found = theirs(pixel_values=normed)
        mine = found.logits if head else found.pooler_output
        torch.testing.assert_close(mine, network(normed), rtol=1e-4, atol=1e-4)
    if head:
        assert theirs.config.id2label == dict(enumerate(CLASSES))
    if name in ("wrn", "small"):
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
        pixels = [(255 * image).round().byte().numpy() for image in images]
        fed = torch.as_tensor(np.stack(processor(pixels, input_data_format="channels_first").pixel_values))
        torch.testing.assert_close(fed, normed, rtol=0, atol=0.02)


def test_what_a_format_cannot_hold_is_said(tmp_path: Path) -> None:
    saved(tmp_path / "wrn", "wrn")
    with pytest.raises(ConfigError, match="or the format by --to"):
        export_model(tmp_path / "wrn", tmp_path / "w.txt")
