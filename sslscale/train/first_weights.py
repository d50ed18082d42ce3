"""Give networks and methods the weights of a checkpoint to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from sslscale.nn.classifier import Classifier
from sslscale.nn.detector import OverBackbone
from sslscale.nn.sound_towers import SoundTowers
from sslscale.nn.towers import TwoTowers
from sslscale.settings.model import read_info
from sslscale.train import checkpoint


def initialize(network: Classifier, folder: Path, classes: tuple[str, ...]) -> None:
    """Take up the weights of a checkpoint: all of them if it knows the same classes, else those of its backbone."""
    info = read_info(folder)
    if info.head and info.classes == classes and info.cosine_dim is None:
        checkpoint.load_weights(network, folder / "model.safetensors")
    else:
        checkpoint.load_weights(network.backbone, folder / "model.safetensors", prefix=checkpoint.backbone_prefix(info))


def initialize_method(method: nn.Module, folder: Path, classes: tuple[str, ...]) -> None:
    """Give a method the weights of a checkpoint: its classifiers', or all that a training with keep_method kept, or
    those of its backbone and of the averages that follow it, under new heads.
    """
    parts = {id(m): m for m in method.children() if isinstance(m, Classifier)}.values()
    for part in parts:
        initialize(part, folder, classes)
    if parts:
        return
    if (folder / checkpoint.METHOD).exists():
        checkpoint.load_weights(method, folder / checkpoint.METHOD)
        return
    info, result = read_info(folder), method.result
    if isinstance(result, TwoTowers) and info.text == result.config:
        checkpoint.load_weights(result, folder / "model.safetensors")
        return
    if isinstance(result, SoundTowers) and info.sound == result.config:
        checkpoint.load_weights(result, folder / "model.safetensors")
        return
    for part in backbones(method):
        checkpoint.load_weights(part, folder / "model.safetensors", prefix=checkpoint.backbone_prefix(info))


def backbones(method: nn.Module) -> list[nn.Module]:
    """A method's backbone, and the averages and teachers that are built like it."""
    result: Any = method.result
    backbone = result.backbone if isinstance(result, Classifier | TwoTowers | SoundTowers | OverBackbone) else result
    shapes = {name: value.shape for name, value in backbone.state_dict().items()}
    return [
        module
        for module in method.modules()
        if type(module) is type(backbone) and {n: v.shape for n, v in module.state_dict().items()} == shapes
    ]
