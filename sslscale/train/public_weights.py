"""Weights that others published, or that sslscale exported, as a backbone of ours."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sslscale.errors import ConfigError, DataError
from sslscale.nn import names
from sslscale.nn.classifier import build_backbone
from sslscale.nn.first_layer import adapt
from sslscale.nn.positions import resize_positions
from sslscale.nn.towers import TwoTowers, build_towers
from sslscale.nn.vit import VisionTransformer
from sslscale.settings.model import ImageConfig, ModelConfig, ModelInfo
from sslscale.settings.text import TextConfig
from sslscale.train import checkpoint

log = logging.getLogger(__name__)
_WRAPPERS = ("state_dict", "model", "teacher", "model_ema", "ema", "student", "network", "module")
_PREFIXES = ("", "backbone.", "encoder.", "encoder_q.", "base_encoder.", "trunk.", "model.", "visual.", "network.")


def read_backbone(file: Path, model: ModelConfig) -> nn.Module:
    """A backbone with the weights of a file (.safetensors, or a pickle of which tensors alone are read).

    Names may be those of sslscale, timm or torchvision, with a prefix before all of them. A classifier and other heads
    are left out, and named in the log. A first layer for RGB is adapted to other channels. Raises DataError if a weight
    of the backbone is missing or has another shape.
    """
    found = _unwrapped(_read(file))
    backbone, _ = build_backbone(model)
    wanted = backbone.state_dict()
    vit = isinstance(backbone, VisionTransformer)
    best: dict[str, Tensor] = {}
    for prefix in _PREFIXES:
        own = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
        own = names.from_timm(own) if vit else own
        own = {name: value for name, value in own.items() if name in wanted}
        if len(own) > len(best):
            best = own
    others = len(found) - len(best)
    if vit and "positions" in best:
        best["positions"] = _on_grid(best["positions"], model.grid)
    best = adapt(best, wanted)
    for name, value in wanted.items():  # statistics that a file need not have
        if name.endswith("num_batches_tracked"):
            best.setdefault(name, value)
    missing = sorted(wanted.keys() - best.keys())
    misshapen = sorted(name for name, value in best.items() if value.shape != wanted[name].shape)
    if missing or misshapen:
        first = missing[0] if missing else misshapen[0]
        shapes = "" if missing else f" {tuple(best[first].shape)}, not {tuple(wanted[first].shape)}"
        raise DataError(
            f"{file}: holds no weights of {model.name}: of {len(wanted)} tensors {len(missing)} are missing and "
            f"{len(misshapen)} have another shape, such as {first}{shapes}; the file has "
            f"{', '.join(list(found)[:3])}, ..."
        )
    backbone.load_state_dict({name: value.to(wanted[name].dtype) for name, value in best.items()})
    if others > 0:
        log.info("%s: %d tensors are not of the backbone and left out", file, others)
    return backbone.eval()


def read_towers(file: Path, model: ModelConfig) -> TwoTowers:
    """An open_clip model with the weights of a file, read as `read_backbone` reads them, both towers and the scale.

    Raises DataError if a weight is missing, unexpected or of another shape.
    """
    found = _unwrapped(_read(file))
    if any(
        name.startswith(("transformer.", "token_embedding.")) for name in found
    ):  # CLIP's own names of its text tower
        found = {n if n.startswith(("visual.", "logit_")) else f"text.{n}": value for n, value in found.items()}
    known = {"visual.proj": "projection.weight", "logit_scale": "log_scale", "logit_bias": "bias"}
    left_out = ("text.attn_mask", "text.input_resolution", "text.context_length", "text.vocab_size")
    weights: dict[str, Tensor] = {}
    for name, value in found.items():
        if name in left_out:
            continue
        own = known.get(name) or (f"backbone.{name.removeprefix('visual.')}" if name.startswith("visual.") else name)
        value = value.T.contiguous() if own == "projection.weight" else value
        weights[own] = value.reshape(1) if own in ("log_scale", "bias") else value
    towers = build_towers(model, TextConfig(), has_bias="bias" in weights)
    wanted = towers.state_dict()
    wrong = sorted(wanted.keys() ^ weights.keys())
    wrong += sorted(n for n in wanted.keys() & weights.keys() if wanted[n].shape != weights[n].shape)
    if wrong:
        raise DataError(
            f"{file}: holds no weights of {model.name}: of {len(wanted)} tensors {len(wrong)} are missing, unexpected "
            f"or of another shape, such as {wrong[0]}; the file has {', '.join(list(found)[:3])}, ..."
        )
    towers.load_state_dict({name: value.to(wanted[name].dtype) for name, value in weights.items()})
    return towers.eval()


def timm_backbone(name: str) -> nn.Module:
    """timm's model with the weights that it publishes under that name; raises ConfigError and DataError."""
    import timm

    if not timm.is_model(name.partition(".")[0]):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise ConfigError(f"init: timm has no model {name!r}; it has, among others, {', '.join(near)}")
    try:
        return timm.create_model(name, pretrained=True, num_classes=0).eval()
    except Exception as error:  # of the hub's and of sockets, of many kinds
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"init: the weights of {name} cannot be fetched ({text}); give init.weights a file") from None


def mean_and_std(name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """What timm's model was fed in its training, if timm knows."""
    import timm

    published: Any = timm.get_pretrained_cfg(name) if timm.is_model(name.partition(".")[0]) else None
    return None if published is None else (tuple(published.mean), tuple(published.std))


def take_up(theirs: nn.Module, model: ModelConfig) -> nn.Module:
    """A backbone of ours with the weights of timm's module."""
    backbone, _ = build_backbone(model)
    weights = theirs.state_dict()
    if isinstance(backbone, VisionTransformer):
        weights = names.from_timm(weights)
        weights["positions"] = _on_grid(weights["positions"], model.grid)
    try:
        backbone.load_state_dict(adapt(weights, backbone.state_dict()))
    except RuntimeError as error:
        reason = str(error).splitlines()[1:2] or [str(error)]
        raise ConfigError(f"init: the weights do not fit model {model.name}: {reason[0].strip()}") from None
    return backbone.eval()


def for_channels(folder: Path, out: Path, image: ImageConfig) -> ModelInfo:
    """Write the backbone of a checkpoint for RGB images as one that takes the channels of these; raises DataError."""
    backbone, info = checkpoint.load_backbone(folder)
    made, _ = build_backbone(info.model.fitted(image))
    weights = adapt(backbone.state_dict(), made.state_dict())
    wrong = [name for name, value in made.state_dict().items() if value.shape != weights[name].shape]
    if wrong:
        raise DataError(f"{folder}: takes {info.image.channels} channels, which cannot be made {image.channels}")
    made.load_state_dict(weights)
    described = checkpoint.describe_model(made, info.model, image, ())
    checkpoint.save_model(out, made, described)
    return described


def _read(file: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file}: cannot be read as weights: {error}") from None
    except Exception as error:  # unpickling has many; what is no tensor is refused, never run
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{file}: is no file of tensors alone: {text}") from None


def _unwrapped(content: Any) -> dict[str, Tensor]:
    """The tensors by name, out of what training scripts put around them."""
    for _ in range(3):
        if isinstance(content, Mapping) and not any(isinstance(value, Tensor) for value in content.values()):
            inner = [content[name] for name in _WRAPPERS if isinstance(content.get(name), Mapping)]
            content = inner[0] if inner else content
    tensors = content if isinstance(content, Mapping) else {}
    found = {str(name): value for name, value in tensors.items() if isinstance(value, Tensor)}
    if found and all(name.startswith("module.") for name in found):  # of DataParallel
        found = {name.removeprefix("module."): value for name, value in found.items()}
    return found


def _on_grid(positions: Tensor, grid: int) -> Tensor:
    return positions if positions.shape[1] == 1 + grid * grid else resize_positions(positions, grid)
