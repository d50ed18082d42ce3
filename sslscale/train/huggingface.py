"""A checkpoint as a folder for Hugging Face's libraries, with a model card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from sslscale.errors import ConfigError
from sslscale.settings.model import ModelInfo
from sslscale.storage import jsonio
from sslscale.train.checkpoint import load_backbone, load_model
from sslscale.train.to_timm import Timm, for_timm, own_weights


def write_folder(checkpoint: Path, out: Path, backbone: nn.Module, info: ModelInfo) -> str:
    """Write the folder, which must not be there yet, and return how to load it; raises ConfigError if it is."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: is there already; choose another folder or remove it")
    theirs = for_timm(backbone, info)
    out.mkdir(parents=True, exist_ok=True)
    if theirs is None:
        load, library = _write_with_code(checkpoint, out, info), "transformers"
    else:
        load, library = _write_for_timm(checkpoint, out, backbone, info, theirs), "timm"
    (out / "README.md").write_text(_card(checkpoint, out, info, library), "utf-8")
    return load


def _write_for_timm(checkpoint: Path, out: Path, backbone: nn.Module, info: ModelInfo, theirs: Timm) -> str:
    from safetensors.torch import save_file

    weights, architecture, arguments = theirs
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
    return f'timm.create_model("local-dir:{out}", pretrained=True)'


def _write_with_code(checkpoint: Path, out: Path, info: ModelInfo) -> str:
    """A folder that carries the few lines by which transformers builds the network with sslscale."""
    from safetensors.torch import save_file

    network = load_model(checkpoint)[0] if info.head else load_backbone(checkpoint)[0]
    weights = {f"network.{name}": tensor for name, tensor in own_weights(network).items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(checkpoint / "model.json", out / "model.json")
    shutil.copyfile(Path(__file__).with_name("modeling_sslscale.py.txt"), out / "modeling_sslscale.py")
    kind = "AutoModelForImageClassification" if info.head else "AutoModel"
    config = {
        "model_type": "sslscale",
        "architectures": ["SslscaleModel"],
        "auto_map": {
            "AutoConfig": "modeling_sslscale.SslscaleConfig",
            kind: "modeling_sslscale.SslscaleModel",
        },
        "info": jsonio.read_json(checkpoint / "model.json"),
        "id2label": dict(enumerate(info.classes)) if info.head else {},
        "label2id": {name: number for number, name in enumerate(info.classes)} if info.head else {},
    }
    jsonio.write_json(out / "config.json", config)
    size = info.image.size
    processor = {
        "image_processor_type": "CLIPImageProcessor",  # which crops the middle, as the evaluation does
        "size": {"shortest_edge": round(size / info.image.crop)},
        "crop_size": {"height": size, "width": size},
        "resample": 2,  # bilinear
        "image_mean": list(info.image.mean),
        "image_std": list(info.image.std),
    }
    jsonio.write_json(out / "preprocessor_config.json", processor)
    return f'transformers.{kind}.from_pretrained("{out}", trust_remote_code=True), with sslscale installed'


def _head_name(architecture: str) -> str:
    import timm

    config: Any = timm.get_pretrained_cfg(architecture)
    return str(config.classifier)


_TASKS = {"image-classification": "AutoModelForImageClassification", "image-feature-extraction": "AutoModel"}
_USE = {
    "timm": """import timm

model = timm.create_model("local-dir:{name}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))""",
    "transformers": """from transformers import {task}

# the folder's own code builds the network with sslscale, which must be installed
model = {task}.from_pretrained("{name}", trust_remote_code=True).eval()""",
}


def _card(checkpoint: Path, out: Path, info: ModelInfo, library: str) -> str:
    """What a reader must know of the model before using it."""
    try:
        record: Mapping[str, Any] = jsonio.read_json(checkpoint / "record.json")
    except (OSError, ValueError):
        record = {}
    method = record.get("config", {}).get("method", {}).get("name", "unknown")
    task = "image-classification" if info.head else "image-feature-extraction"
    classes = "\n".join(f"- {name}" for name in info.classes[:100]) if info.head else "None: a backbone for features."
    return f"""---
library_name: {library}
pipeline_tag: {task}
tags: [sslscale, {method}]
---
# {out.name}

{info.model.name}, {info.num_parameters:,} weights, trained by sslscale with `{method}`
(stage `{record.get("name", "unknown")}`, key `{record.get("key", "unknown")}`,
{record.get("created", "date unknown")}).

```python
{_USE[library].format(name=out.name, task=_TASKS[task])}
```

Images: RGB, {info.image.size} pixels a side, mean {list(info.image.mean)}, std {list(info.image.std)}.

## Classes

{classes}

## To be completed

What the images were and who may use them; the accuracy on a test set, with its interval; what the model is not for.
"""
