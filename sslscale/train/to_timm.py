"""A backbone as timm has it, if it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from sslscale.nn import names
from sslscale.nn.vit import SIZES, VisionTransformer
from sslscale.settings.model import ModelInfo


class Timm(NamedTuple):
    """Weights under timm's names, the name of timm's model, and what else makes it the same."""

    weights: dict[str, Tensor]
    architecture: str
    arguments: Mapping[str, Any]


def own_weights(network: nn.Module) -> dict[str, Tensor]:
    """A network's weights under their own names, on the CPU."""
    return {name: tensor.detach().contiguous().cpu() for name, tensor in network.state_dict().items()}


def for_timm(backbone: nn.Module, info: ModelInfo) -> Timm | None:
    """The backbone as timm's model, or None if timm has no such network."""
    weights = own_weights(backbone)
    channels = {} if info.image.channels == 3 else {"in_chans": info.image.channels}
    kind, _, rest = info.model.name.partition(":" if info.model.name.startswith("timm:") else "_")
    if kind == "wrn":
        return None
    if kind == "timm":
        return Timm(weights, rest, channels)
    if not isinstance(backbone, VisionTransformer):
        other = info.model.small_images or "_" in rest
        return None if other else Timm(weights, f"resnet{rest}", channels)
    model, side = info.model, info.model.grid * backbone.patch
    if model.pool == "mean" or model.distillation_token:  # which timm does otherwise
        return None
    size, patch = rest.split("_")
    width, depth = SIZES[size] if size in SIZES else map(int, size.split("x"))
    blocks: Any = backbone.blocks
    arguments = {
        "img_size": side,
        "patch_size": int(patch),
        "embed_dim": width,
        "depth": depth,
        "num_heads": int(blocks[0].attn.heads),
        **channels,
        **({"reg_tokens": model.registers, "no_embed_class": True} if model.registers else {}),
        **({"init_values": model.layer_scale} if model.layer_scale is not None else {}),
    }
    return Timm(names.to_timm(weights), "vit_base_patch16_224", arguments)
