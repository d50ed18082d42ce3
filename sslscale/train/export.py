"""A checkpoint in the formats of other libraries: timm, torchvision, ONNX, TorchScript, and a Hugging Face folder."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sslscale.errors import ConfigError, DataError
from sslscale.nn import names
from sslscale.nn.vit import SIZES, VisionTransformer
from sslscale.settings.model import ModelInfo
from sslscale.storage import jsonio
from sslscale.train.checkpoint import load_backbone, load_model

FORMATS = ("safetensors", "pth", "onnx", "torchscript", "hf")
_BY_SUFFIX = {".safetensors": "safetensors", ".pth": "pth", ".onnx": "onnx", ".pt": "torchscript", "": "hf"}


def export_model(checkpoint: Path, out: Path, kind: str | None = None) -> str:
    """Write a checkpoint to OUT in one of the FORMATS, by its suffix if none is named; returns how to load it.

    - safetensors, pth: the backbone's weights under the names of torchvision and timm, described in OUT.json.
    - onnx, torchscript (.pt): a graph from images (batch, 3, size, size), RGB from 0 to 1, to the features and, of a
      classifier, the probabilities.
    - hf: a folder that timm loads as local-dir:OUT, and transformers by its TimmWrapper, with a model card.

    Raises DataError for a network that the format cannot hold, ConfigError for an unknown format or a missing library.
    """
    kind = kind or _BY_SUFFIX.get(out.suffix)
    if kind not in FORMATS:
        raise ConfigError(f"{out}: name a .safetensors, .pth, .onnx or .pt file, or a folder; or the format by --to")
    backbone, info = load_backbone(checkpoint)
    out.parent.mkdir(parents=True, exist_ok=True)
    if kind in ("safetensors", "pth"):
        return _write_weights(checkpoint, out, kind, backbone, info)
    if kind == "hf":
        return _write_folder(checkpoint, out, backbone, info)
    head = load_model(checkpoint)[0].head if info.head else None
    return _write_graph(out, kind, _Images(backbone, head, info).eval(), info)


class _Images(nn.Module):
    """A network that takes images as they are, and gives what people ask for."""

    def __init__(self, backbone: nn.Module, head: nn.Module | None, info: ModelInfo):
        super().__init__()
        self.backbone, self.head = backbone, head
        self.mean = nn.Buffer(torch.tensor(info.image.mean).view(1, 3, 1, 1))
        self.std = nn.Buffer(torch.tensor(info.image.std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone((images - self.mean) / self.std)
        return (features,) if self.head is None else (features, self.head(features).softmax(-1))


def _write_graph(out: Path, kind: str, network: _Images, info: ModelInfo) -> str:
    size = info.image.size
    example = torch.rand(7, 3, size, size, generator=torch.Generator().manual_seed(0))
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
        "images": f"float32 (batch, 3, {size}, {size}), RGB from 0 to 1",
        "outputs": outputs,
        "classes": list(info.classes) if network.head is not None else [],
        "load": how,
    }
    jsonio.write_json(out.with_name(out.name + ".json"), description)
    return how


def _write_weights(checkpoint: Path, out: Path, kind: str, backbone: nn.Module, info: ModelInfo) -> str:
    from safetensors.torch import save_file

    weights, architecture, arguments = _for_timm(checkpoint, backbone, info)
    if kind == "pth":
        torch.save(weights, out)
    else:
        save_file(weights, out)
    given = "".join(f", {name}={value!r}" for name, value in arguments.items())
    how = f'timm.create_model("{architecture}", num_classes=0, checkpoint_path="{out}"{given})'
    if architecture.startswith("resnet"):
        how += f", or torchvision.models.{architecture}().load_state_dict(weights, strict=False): all but fc"
    if info.model.name.startswith("resnet_") and (info.model.small_images or info.model.name.count("_") > 1):
        how = f"torchvision's names, but its stem or its width is another: {info.model}"
    description = {
        "architecture": architecture,
        "mean": list(info.image.mean),
        "std": list(info.image.std),
        "size": info.image.size,
        "load": how,
    }
    jsonio.write_json(out.with_name(out.name + ".json"), description)
    return how


def _for_timm(checkpoint: Path, backbone: nn.Module, info: ModelInfo) -> tuple[dict[str, Tensor], str, dict[str, Any]]:
    """The weights under timm's names, the name of timm's model, and what else makes it the same."""
    weights = {name: tensor.detach().contiguous().cpu() for name, tensor in backbone.state_dict().items()}
    kind, _, rest = info.model.name.partition(":" if info.model.name.startswith("timm:") else "_")
    if kind == "wrn":
        raise DataError(
            f"{checkpoint}: torchvision and timm have no {info.model.name}: export it as .onnx or .pt, or train a "
            "resnet_, vit_ or timm: network"
        )
    if kind == "timm":
        return weights, rest, {}
    if not isinstance(backbone, VisionTransformer):
        return weights, f"resnet{rest.partition('_')[0]}", {}
    model, side = info.model, info.model.grid * backbone.patch
    if model.pool == "mean" or model.distillation_token:
        raise DataError(f"{checkpoint}: timm pools and distils otherwise: export it as .onnx or .pt")
    size, patch = rest.split("_")
    width, depth = SIZES[size] if size in SIZES else map(int, size.split("x"))
    blocks: Any = backbone.blocks
    arguments = {
        "img_size": side,
        "patch_size": int(patch),
        "embed_dim": width,
        "depth": depth,
        "num_heads": int(blocks[0].attn.heads),
        **({"reg_tokens": model.registers, "no_embed_class": True} if model.registers else {}),
        **({"init_values": model.layer_scale} if model.layer_scale is not None else {}),
    }
    return names.to_timm(weights), "vit_base_patch16_224", arguments


def _write_folder(checkpoint: Path, out: Path, backbone: nn.Module, info: ModelInfo) -> str:
    from safetensors.torch import save_file

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: is there already; choose another folder or remove it")
    weights, architecture, arguments = _for_timm(checkpoint, backbone, info)
    if info.model.small_images or (info.model.name.startswith("resnet_") and info.model.name.count("_") > 1):
        raise DataError(f"{checkpoint}: timm has no such stem or width: export it as .onnx or .pt")
    out.mkdir(parents=True, exist_ok=True)
    if info.head:
        head = load_model(checkpoint)[0].head.state_dict()
        place = _head_name(architecture)
        weights |= {f"{place}.{name}": tensor.contiguous() for name, tensor in head.items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    size = info.image.size
    config = {
        "architecture": architecture,
        "num_classes": len(info.classes) if info.head else 0,
        "num_features": getattr(backbone, "num_features", None),
        "label_names": list(info.classes) if info.head else [],
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "mean": list(info.image.mean),
            "std": list(info.image.std),
            "interpolation": "bilinear",
            "crop_pct": info.image.crop,
            "num_classes": len(info.classes) if info.head else 0,
        },
    }
    jsonio.write_json(out / "config.json", {k: v for k, v in config.items() if v is not None})
    (out / "README.md").write_text(_card(checkpoint, out, info), "utf-8")
    return f'timm.create_model("local-dir:{out}", pretrained=True)'


def _head_name(architecture: str) -> str:
    import timm

    config: Any = timm.get_pretrained_cfg(architecture)
    return str(config.classifier)


def _card(checkpoint: Path, out: Path, info: ModelInfo) -> str:
    """What a reader must know of the model before using it."""
    try:
        record: Mapping[str, Any] = jsonio.read_json(checkpoint / "record.json")
    except (OSError, ValueError):
        record = {}
    method = record.get("config", {}).get("method", {}).get("name", "unknown")
    task = "image-classification" if info.head else "image-feature-extraction"
    classes = "\n".join(f"- {name}" for name in info.classes[:100]) if info.head else "None: a backbone for features."
    return f"""---
library_name: timm
pipeline_tag: {task}
tags: [sslscale, {method}]
---
# {out.name}

{info.model.name}, {info.num_parameters:,} weights, trained by sslscale with `{method}`
(stage `{record.get("name", "unknown")}`, key `{record.get("key", "unknown")}`,
{record.get("created", "date unknown")}).

```python
import timm

model = timm.create_model("local-dir:{out.name}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
```

Images: RGB, {info.image.size} pixels a side, mean {list(info.image.mean)}, std {list(info.image.std)}.

## Classes

{classes}

## To be completed

What the images were and who may use them; the accuracy on a test set, with its interval; what the model is not for.
"""
