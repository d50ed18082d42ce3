"""A backbone with a linear classifier, built from a ModelConfig."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sslscale.errors import ConfigError
from sslscale.nn.ensemble import Backbones, MeanOfMembers
from sslscale.nn.heads import CosineHead, MeanOfHeads
from sslscale.nn.positions import sincos_positions
from sslscale.nn.resnet import ResNet
from sslscale.nn.resnext import SmallResNeXt
from sslscale.nn.vit import SIZES, VisionTransformer
from sslscale.nn.wide_resnet import WideResNet
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


class Classifier(nn.Module):
    """Features, dropout, a head: one linear layer, or cosines with the classes."""

    def __init__(self, backbone: nn.Module, num_features: int, head: nn.Module, dropout: float = 0.0):
        super().__init__()
        self.backbone, self.num_features = backbone, num_features
        self.dropout = nn.Dropout(dropout)
        self.head = head

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch classes"]:
        return self.head(self.dropout(self.backbone(x)))


def build_backbone(config: ModelConfig) -> tuple[nn.Module, int]:
    """Build a network without its classifier; returns it with its number of features."""
    if config.name.startswith("open_clip:"):
        from sslscale.nn.open_clip_towers import build_image_tower

        if config.channels != 3:
            raise ConfigError(f"model {config.name!r}: takes RGB images, not {config.channels} channels")
        return build_image_tower(config.name.removeprefix("open_clip:"))
    if config.name.startswith("timm:"):
        import timm

        name = config.name.removeprefix("timm:")
        try:
            # timm's drop_path_rate falls linearly over the blocks, as the paper's stochastic depth does; some lack it
            backbone = timm.create_model(
                name, num_classes=0, drop_path_rate=1 - config.survival or None, in_chans=config.channels
            )
        except RuntimeError as error:
            near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
            raise ConfigError(f"model {config.name!r}: {error}; timm has, among others, {near}") from None
        # of mobilenets num_features is what comes before a last layer that stays
        features: Any = getattr(backbone, "head_hidden_size", None) or backbone.num_features
        return backbone, int(features)
    kind, depth, *width = config.name.split("_")
    if kind == "vit":
        size = SIZES[depth] if depth in SIZES else tuple(int(x) for x in depth.split("x"))
        network = VisionTransformer(
            int(width[0]),
            *size,
            heads=size[0] // 64 if size[0] % 64 == 0 and size[0] >= 192 else size[0] // 32,
            grid=config.grid,
            registers=config.registers,
            survival=config.survival,
            layer_scale=config.layer_scale,
            pool=config.pool,
            distillation_token=config.distillation_token,
            channels=config.channels,
        )
        return network, network.num_features
    if kind == "wrn":
        network = WideResNet(
            int(depth),
            float(width[0]),
            survival=config.survival,
            stem_stride=config.stem_stride,
            channels=config.channels,
        )
    elif kind == "resnext":
        network = SmallResNeXt(int(depth), *(int(x) for x in width[0].split("x")), channels=config.channels)
    else:
        network = ResNet(
            int(depth),
            width=float(width[0]) if width else 1.0,
            small_images=config.small_images,
            channels=config.channels,
        )
    return network, network.num_features


def build_vit(config: ModelConfig, *, fixed_positions: bool = False) -> tuple[VisionTransformer, int]:
    """Build a vision transformer, and the number of its features; its positions are learned, or sines and cosines.

    Raises ConfigError for another network.
    """
    network, width = build_backbone(config)
    if not isinstance(network, VisionTransformer):
        raise ConfigError(f"method.name: it works on patches, which {config.name} has not: take a vit_SIZE_PATCH")
    if fixed_positions:
        with torch.no_grad():
            network.positions.copy_(sincos_positions(width, network.grid))
        network.positions.requires_grad_(False)
    return network, width


def build_classifier(
    config: ModelConfig, num_classes: int, cosine_dim: int | None = None, members: int = 1
) -> Classifier:
    """Build a network with its classifier, initialised from torch's global generator.

    With `cosine_dim` the classes are vectors of so many dimensions. Several `members` are such networks side by side.
    """
    if members > 1:
        return together([build_classifier(config, num_classes, cosine_dim) for _ in range(members)])
    backbone, num_features = build_backbone(config)
    if cosine_dim is not None:
        return Classifier(backbone, num_features, CosineHead(num_features, cosine_dim, num_classes), config.dropout)
    two = isinstance(backbone, VisionTransformer) and backbone.distillation_token is not None
    head = (MeanOfHeads if two else nn.Linear)(num_features, num_classes)
    return Classifier(backbone, num_features, head, config.dropout)


def together(members: Sequence[Classifier]) -> Classifier:
    """Several classifiers as one, whose logits are the mean of theirs."""
    width = sum(member.num_features for member in members)
    return Classifier(Backbones(m.backbone for m in members), width, MeanOfMembers(m.head for m in members))


def forward_together(
    network: nn.Module, *views: Float[Tensor, "_ channels h w"]
) -> tuple[Float[Tensor, "_ outputs"], ...]:
    """What a network makes of several batches in one pass, so that batch norm sees all of them; in float32."""
    return network(torch.cat(views)).float().split([len(view) for view in views])


def num_parameters(module: nn.Module) -> int:
    """The number of trainable weights."""
    return sum(parameter.numel() for parameter in module.parameters())
