"""Masked autoencoder: three quarters of an image's patches are told from the rest (arXiv:2111.06377)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from sslscale.data import rng
from sslscale.data.loader import Batch
from sslscale.errors import ConfigError
from sslscale.methods.method import Losses, Method
from sslscale.nn.classifier import build_backbone
from sslscale.nn.vit import Block, VisionTransformer, initialize_linear, sincos_positions
from sslscale.recipes.mae import MAE
from sslscale.recipes.model import ModelConfig

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor


def patch_pixels(images: Float[Tensor, "batch 3 h w"], patch: int) -> Float[Tensor, "batch patches pixels"]:
    """The pixels of each patch, row by row."""
    return F.unfold(images, patch, stride=patch).transpose(1, 2)


def mae_loss(
    predicted: Float[Tensor, "batch patches pixels"],
    pixels: Float[Tensor, "batch patches pixels"],
    masked: Bool[Tensor, "batch patches"],
    normalize: bool,
) -> Float[Tensor, ""]:
    """Section 3: the mean squared error of the masked patches' pixels; with `normalize` each patch's pixels are scaled
    to mean 0 and variance 1 first (of n - 1, plus 1e-6, as in the authors' code)."""
    target = pixels.float()
    if normalize:
        target = (target - target.mean(2, keepdim=True)) / (target.var(2, keepdim=True) + 1e-6).sqrt()
    error = (predicted.float() - target).square().mean(2)
    return (error * masked).sum() / masked.sum()


class MAEMethod(Method):
    """A ViT that sees a quarter of the patches, and a light decoder, which is thrown away; positions are fixed."""

    decoder_positions: Tensor

    def __init__(self, recipe: MAE, model: ModelConfig, num_outputs: int):
        super().__init__()
        del num_outputs
        self.recipe = recipe
        backbone, width = build_backbone(model)
        if not isinstance(backbone, VisionTransformer):
            raise ConfigError(f"method.name: it masks patches, which {model.name} has not: take a vit_SIZE_PATCH")
        self.backbone = backbone
        with torch.no_grad():
            backbone.positions.copy_(sincos_positions(width, backbone.grid))
        backbone.positions.requires_grad_(False)
        own = recipe.width
        self.embed = nn.Linear(width, own)
        self.mask_token = nn.Parameter(torch.empty(1, 1, own))
        self.blocks = nn.ModuleList(Block(own, max(own // 32, 1), 0.0, None) for _ in range(recipe.depth))
        self.norm, self.pixels = nn.LayerNorm(own, eps=1e-6), nn.Linear(own, 3 * backbone.patch**2)
        nn.init.normal_(self.mask_token, std=0.02)
        for part in (self.embed, self.blocks, self.pixels):
            initialize_linear(part)
        self.register_buffer("decoder_positions", sincos_positions(own, backbone.grid), persistent=False)

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        images = batch["images"]
        (view,) = images.views
        patches, side = self.backbone.patches(view)
        if side != self.backbone.grid:
            raise ConfigError(f"model.grid: {self.backbone.grid}, but the images have {side} patches side by side")
        index = images.index.cpu()
        draws = rng.uniforms(rng.stream_seed(0, "masks"), torch.full_like(index, self.now.step), index, side * side)
        order = draws.argsort(1).to(view.device)  # all orders alike (appendix A.1)
        kept = order[:, : max(round(side * side * (1 - self.recipe.masked)), 1)]
        positions = self.backbone.positions
        rows = (patches + positions[:, 1:]).gather(1, _wide(kept, patches.shape[2]))
        cls, seen = self.backbone.encode(rows, positions[:, :1])
        predicted = self._decode(cls, seen, kept)
        masked = torch.ones_like(order, dtype=torch.bool).scatter(1, kept, False)
        loss = mae_loss(predicted, patch_pixels(view, self.backbone.patch), masked, self.recipe.normalize)
        return Losses(loss, {"loss": loss.detach()}, (cls if self.backbone.pool == "cls" else seen.mean(1)).detach())

    def _decode(
        self, cls: Float[Tensor, "batch width"], seen: Float[Tensor, "batch seen width"], kept: Tensor
    ) -> Float[Tensor, "batch patches pixels"]:
        """The pixels of every patch, from the encoded ones."""
        own = self.embed(torch.cat([cls[:, None], seen], 1))
        whole = self.mask_token.to(own.dtype).expand(len(own), self.backbone.grid**2, -1)
        whole = whole.scatter(1, _wide(kept, own.shape[2]), own[:, 1:])
        x = torch.cat([own[:, :1], whole], 1) + self.decoder_positions
        for block in self.blocks:
            x = block(x)
        return self.pixels(self.norm(x))[:, 1:]

    @property
    def result(self) -> nn.Module:
        return self.backbone


def _wide(index: Tensor, width: int) -> Tensor:
    return index[..., None].expand(-1, -1, width)
