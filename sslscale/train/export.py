"""A backbone under the names that torchvision and timm know, for their models and for detection on top of them."""

from __future__ import annotations

from pathlib import Path

from sslscale.errors import ConfigError, DataError
from sslscale.storage import jsonio
from sslscale.train.checkpoint import load_backbone


def export_backbone(checkpoint: Path, out: Path) -> str:
    """Write the weights without a classifier to OUT (.safetensors or .pth) and OUT.json; returns how to load them.

    ResNets have the names that torchvision and timm share, timm's models have timm's. Raises DataError for a network
    that neither has, ConfigError for another kind of file.
    """
    import torch
    from safetensors.torch import save_file

    if out.suffix not in (".safetensors", ".pth"):
        raise ConfigError(f"{out}: name a .safetensors or a .pth file")
    backbone, info = load_backbone(checkpoint)
    kind, _, rest = info.model.name.partition(":" if info.model.name.startswith("timm:") else "_")
    if kind in ("wrn", "vit"):
        raise DataError(f"{checkpoint}: torchvision and timm have no {info.model.name}; train a resnet_ or timm: one")
    weights = {name: tensor.detach().contiguous().cpu() for name, tensor in backbone.state_dict().items()}
    plain = kind == "resnet" and "_" not in rest and not info.model.small_images
    if kind == "timm":
        how = f'timm.create_model("{rest}", num_classes=0, checkpoint_path="{out}")'
    elif plain:
        how = (
            f'timm.create_model("resnet{rest}", num_classes=0, checkpoint_path="{out}"), or '
            f"torchvision.models.resnet{rest}().load_state_dict(weights, strict=False): all but fc"
        )
    else:
        how = f"torchvision's names, but its stem or its width is another: {info.model}"
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".pth":
        torch.save(weights, out)
    else:
        save_file(weights, out)
    description = {
        "architecture": f"resnet{rest}" if kind == "resnet" else rest,
        "mean": list(info.image.mean),
        "std": list(info.image.std),
        "size": info.image.size,
        "load": how,
    }
    jsonio.write_json(out.with_name(out.name + ".json"), description)
    return how
