"""Maps of several strides from any backbone, for detectors."""

from __future__ import annotations

import functools
from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from sslscale.nn.first_layer import input_channels
from sslscale.nn.layers import layer_names
from sslscale.nn.vit import VisionTransformer
from sslscale.nn.wide_resnet import WideResNet
from sslscale.shapes import Float

STRIDES = (4, 8, 16, 32, 64)


class StageMaps(nn.Module):
    """The last map of each resolution that a backbone makes, the finest first: `channels` and `strides` tell them."""

    def __init__(self, backbone: nn.Module, size: int):
        super().__init__()
        self.backbone = backbone
        self._found: dict[str, Tensor] = {}
        self._names: list[str] = []
        self._whole = isinstance(backbone, VisionTransformer)
        maps = self._first(size)
        self.channels = [x.shape[1] for x in maps]
        self.strides = [size // x.shape[2] for x in maps]

    @torch.no_grad()
    def _first(self, size: int) -> list[Tensor]:
        """Look at the maps of one image, and keep the names of those that are wanted."""
        training = self.backbone.training
        self.backbone.eval()
        image = torch.zeros(1, input_channels(self.backbone), size, size)
        if not self._whole:
            names = layer_names(self.backbone)
            if isinstance(self.backbone, WideResNet):
                names = [*names[:-1], "norm"]  # which the last block does not have, and every other begins with
            handles = [self._watch(name) for name in names]
            self.backbone(image)
            sides = {name: self._found[name].shape[2] for name in names if self._found[name].ndim == 4}
            self._names = [name for name in sides if name == [n for n in sides if sides[n] == sides[name]][-1]]
            for handle in handles:
                handle.remove()
            self._found.clear()
            for name in self._names:
                self._watch(name)
        maps = self(image)
        self.backbone.train(training)
        return maps

    def _watch(self, name: str) -> Any:
        return self.backbone.get_submodule(name).register_forward_hook(functools.partial(self._keep, name))

    def _keep(self, name: str, module: nn.Module, inputs: object, output: Tensor) -> None:
        self._found[name] = output

    def forget(self) -> None:
        """Let go of the maps of a backbone that was called by itself."""
        self._found.clear()

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> list[Float[Tensor, "batch _ _ _"]]:
        if isinstance(self.backbone, VisionTransformer):
            patches = self.backbone.tokens(x)[1]
            side = x.shape[2] // (self.backbone.patch or 1)
            return [patches.transpose(1, 2).unflatten(2, (side, -1))]
        self.backbone(x)
        return [self._found.pop(name) for name in self._names]


class Pyramid(nn.Module):
    """Maps of strides 4, 8, 16, 32 and 64, of `out_channels` each, named 0 to 4.

    Of a network with several resolutions a feature pyramid (arXiv:1612.03144); coarser strides than it has are pooled.
    Of one with a single resolution that map, scaled (arXiv:2203.16527, section 3).
    """

    def __init__(self, backbone: nn.Module, size: int, width: int):
        super().__init__()
        self.body = StageMaps(backbone, size)
        self.out_channels = width
        usable = [n for n, stride in enumerate(self.body.strides) if stride in STRIDES[:-1]]
        self._usable = usable if len(self.body.strides) > 1 and usable else []
        if self._usable:
            self.fpn: nn.Module = FeaturePyramidNetwork([self.body.channels[n] for n in self._usable], width)
        else:
            self.fpn = _Scaled(self.body.channels[-1], self.body.strides[-1], width)
        finest = self.body.strides[self._usable[0]] if self._usable else STRIDES[0]
        self.strides = [stride for stride in STRIDES if stride >= finest]

    @property
    def names(self) -> list[str]:
        """The names of the maps."""
        return [str(n) for n in range(len(self.strides))]

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> OrderedDict[str, Tensor]:
        maps = self.body(x)
        if self._usable:
            made = self.fpn(OrderedDict((str(n), maps[k]) for n, k in enumerate(self._usable)))
            levels = list(made.values())
        else:
            levels = self.fpn(maps[-1])
        while len(levels) < len(self.strides):
            levels.append(F.max_pool2d(levels[-1], 1, 2))
        return OrderedDict(zip(self.names, levels, strict=True))


class _Scaled(nn.Module):
    """One map as strides 4, 8, 16 and 32, each by convolutions of its own."""

    def __init__(self, inputs: int, stride: int, width: int):
        super().__init__()
        self.levels = nn.ModuleList()
        for wanted in STRIDES[:-1]:
            layers: list[nn.Module] = []
            channels, now = inputs, stride
            while now > wanted:
                layers += [nn.ConvTranspose2d(channels, channels // 2, 2, 2), nn.GroupNorm(1, channels // 2), nn.GELU()]
                channels, now = channels // 2, now // 2
            while now < wanted:
                layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
                now *= 2
            layers += [nn.Conv2d(channels, width, 1, bias=False), nn.GroupNorm(1, width)]
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(1, width)]
            self.levels.append(nn.Sequential(*layers))

    def forward(self, x: Float[Tensor, "batch c h w"]) -> list[Float[Tensor, "batch width _ _"]]:
        return [level(x) for level in self.levels]
