"""What each layer of a network makes of an image, pooled to a vector."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale.errors import ConfigError
from sslscale.nn.resnet import ResNet
from sslscale.nn.resnext import SmallResNeXt
from sslscale.nn.vit import VisionTransformer
from sslscale.nn.wide_resnet import WideResNet
from sslscale.shapes import Float


def layer_names(backbone: nn.Module) -> list[str]:
    """The modules whose outputs are a network's layers, from the first to the last.

    The stem and every block; of a timm model what its feature_info lists. Raises ConfigError if it lists nothing.
    """
    if isinstance(backbone, WideResNet | SmallResNeXt):
        return ["stem", *(f"blocks.{n}" for n in range(len(backbone.blocks)))]
    if isinstance(backbone, VisionTransformer):
        return [f"blocks.{n}" for n in range(len(backbone.blocks))]
    if isinstance(backbone, ResNet):
        blocks = [name for name, _ in backbone.named_modules() if re.fullmatch(r"layer\d\.\d+", name)]
        return ["maxpool", *blocks]
    known: Any = getattr(backbone, "feature_info", None)
    names = [info["module"] for info in known or []]
    if not names:
        raise ConfigError(f"{type(backbone).__name__} does not say what its layers are")
    return names


class LayerFeatures(nn.Module):
    """All layers' features of an image, one after another in one row, and the network's own last; `sizes` tells them.

    A map of C channels is averaged over a grid of as many cells as make at most `max_features` numbers (VISSL: about
    9,000); tokens are averaged.
    """

    def __init__(self, backbone: nn.Module, *, max_features: int):
        super().__init__()
        self.backbone, self.names = backbone, layer_names(backbone)
        self.sizes: list[int] = []
        self._found: dict[str, Tensor] = {}
        for name in self.names:
            backbone.get_submodule(name).register_forward_hook(functools.partial(self._keep, name, max_features))

    def _keep(self, name: str, max_features: int, module: nn.Module, inputs: object, output: Tensor) -> None:
        if output.ndim == 4:
            side = min(int(math.sqrt(max(max_features / output.shape[1], 1))), output.shape[2], output.shape[3])
            output = F.adaptive_avg_pool2d(output, max(side, 1)).flatten(1)
        elif output.ndim == 3:
            output = output.mean(1)
        self._found[name] = output.float()

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch sizes"]:
        last = self.backbone(x)
        rows = [*(self._found.pop(name) for name in self.names), last.float()]
        self.sizes = [row.shape[1] for row in rows]
        return torch.cat(rows, 1)
