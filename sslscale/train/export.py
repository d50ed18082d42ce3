"""A checkpoint in the formats of other libraries: timm, torchvision, ONNX, TorchScript, and a Hugging Face folder."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from sslscale.errors import ConfigError
from sslscale.settings.model import ModelInfo
from sslscale.settings.pixels import RGB, PixelConfig
from sslscale.storage import jsonio
from sslscale.train.checkpoint import load_backbone, load_model
from sslscale.train.huggingface import write_folder
from sslscale.train.to_timm import for_timm, own_weights

FORMATS = ("safetensors", "pth", "onnx", "torchscript", "hf")
_BY_SUFFIX = {".safetensors": "safetensors", ".pth": "pth", ".onnx": "onnx", ".pt": "torchscript", "": "hf"}


def export_model(checkpoint: Path, out: Path, kind: str | None = None) -> str:
    """Write a checkpoint to OUT in one of the FORMATS, by its suffix if none is named; returns how to load it.

    - safetensors, pth: the backbone's weights, under the names of torchvision and timm if they have the network;
      described, with how to load them, in OUT.json.
    - onnx, torchscript (.pt): a graph from images (batch, 3, size, size), RGB from 0 to 1, to the features and, of a
      classifier, the probabilities.
    - hf: a folder with a model card that timm loads as local-dir:OUT and transformers by its TimmWrapper; of a network
      that timm lacks, one that transformers loads with the folder's own code and sslscale.

    Raises ConfigError for an unknown format or a missing library.
    """
    kind = kind or _BY_SUFFIX.get(out.suffix)
    if kind not in FORMATS:
        raise ConfigError(f"{out}: name a .safetensors, .pth, .onnx or .pt file, or a folder; or the format by --to")
    backbone, info = load_backbone(checkpoint)
    if info.members > 1 and kind not in ("onnx", "torchscript"):
        raise ConfigError(f"{checkpoint}: is {info.members} networks together: export it as one graph, .onnx or .pt")
    if kind == "hf" and info.image.pixels != RGB:
        raise ConfigError(
            f"{checkpoint}: takes {info.image.pixels}, and Hugging Face's processors take 8-bit RGB: export it as a "
            "graph (.onnx, .pt) or its weights"
        )
    if info.cosine_dim is not None and kind == "hf":
        raise ConfigError(f"{checkpoint}: its classifier is of class names: export it as a graph, .onnx or .pt")
    out.parent.mkdir(parents=True, exist_ok=True)
    if kind in ("safetensors", "pth"):
        return _write_weights(out, kind, backbone, info)
    if kind == "hf":
        return write_folder(checkpoint, out, backbone, info)
    head = load_model(checkpoint)[0].head if info.head else None
    return _write_graph(out, kind, _Images(backbone, head, info).eval(), info)


class _Images(nn.Module):
    """A network that takes images as they are, and gives what people ask for."""

    def __init__(self, backbone: nn.Module, head: nn.Module | None, info: ModelInfo):
        super().__init__()
        self.backbone, self.head = backbone, head
        self.mean = nn.Buffer(torch.tensor(info.image.mean).view(1, -1, 1, 1))
        self.std = nn.Buffer(torch.tensor(info.image.std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone((images - self.mean) / self.std)
        return (features,) if self.head is None else (features, self.head(features).softmax(-1))


def _write_graph(out: Path, kind: str, network: _Images, info: ModelInfo) -> str:
    size = info.image.size
    pixels = info.image.pixels
    example = torch.rand(7, pixels.channels, size, size, generator=torch.Generator().manual_seed(0))
    outputs = ["features", "probabilities"][: 2 if network.head is not None else 1]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of sizes, which are those of the images that it is for
        if kind == "torchscript":
            torch.jit.trace(network, example).save(str(out))  # pyright: ignore[reportAttributeAccessIssue]
            how = f'torch.jit.load("{out}")(images)'
        else:
            try:
                import onnx  # noqa: F401  # pyright: ignore[reportMissingImports]
                import onnxscript  # noqa: F401  # pyright: ignore[reportMissingImports]
            except ImportError as error:
                raise ConfigError(f"--to onnx: {error.name} is not installed: pip install 'sslscale[export]'") from None
            torch.onnx.export(
                network,
                (example,),
                out,
                dynamo=True,
                verbose=False,
                external_data=False,
                input_names=["images"],
                output_names=outputs,
                dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
            )
            how = f'onnxruntime.InferenceSession("{out}").run(None, {{"images": images}})'
    description = {
        "images": f"float32 (batch, {pixels.channels}, {size}, {size}), {_values(pixels)} from 0 to 1",
        "outputs": outputs,
        "classes": list(info.classes) if network.head is not None else [],
        "load": how,
    }
    jsonio.write_json(out.with_name(out.name + ".json"), description)
    return how


def _values(pixels: PixelConfig) -> str:
    if pixels == RGB:
        return "RGB"
    low, high = pixels.range or (0, 255 if pixels.bits == 8 else 65535)
    return f"{pixels.channels} channels, {low:g} to {high:g} scaled"


def _write_weights(out: Path, kind: str, backbone: nn.Module, info: ModelInfo) -> str:
    from safetensors.torch import save_file

    theirs = for_timm(backbone, info)
    weights = theirs.weights if theirs else own_weights(backbone)
    if kind == "pth":
        torch.save(weights, out)
    else:
        save_file(weights, out)
    architecture = theirs.architecture if theirs else info.model.name
    if theirs:
        given = "".join(f", {name}={value!r}" for name, value in theirs.arguments.items())
        how = f'timm.create_model("{architecture}", num_classes=0, checkpoint_path="{out}"{given})'
        if architecture.startswith("resnet"):
            how += f", or torchvision.models.{architecture}().load_state_dict(weights, strict=False): all but fc"
    else:  # under torchvision's names where it is a ResNet, but with another stem or width
        how = f"sslscale: model: {{name: {architecture}}} with init: {{weights: {out}}}"
    description = {
        "architecture": architecture,
        "mean": list(info.image.mean),
        "std": list(info.image.std),
        "size": info.image.size,
        "load": how,
    }
    jsonio.write_json(out.with_name(out.name + ".json"), description)
    return how
