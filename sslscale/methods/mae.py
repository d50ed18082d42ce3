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
    from jaxtyping import Bool, Float, Int
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


class Decoder(nn.Module):
    """Light blocks that make the pixels of every patch from those of a few; positions are fixed (section 3)."""

    positions: Tensor

    def __init__(self, features: int, width: int, depth: int, grid: int, pixels: int):
        super().__init__()
        self.grid = grid
        self.embed = nn.Linear(features, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.blocks = nn.ModuleList(Block(width, max(width // 32, 1), 0.0, None) for _ in range(depth))
        self.norm, self.pixels = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, pixels)
        nn.init.normal_(self.mask_token, std=0.02)
        for part in (self.embed, self.blocks, self.pixels):
            initialize_linear(part)
        self.register_buffer("positions", sincos_positions(width, grid), persistent=False)

    def forward(
        self,
        cls: Float[Tensor, "batch width"],
        seen: Float[Tensor, "batch seen width"],
        kept: Int[Tensor, "batch seen"],
    ) -> Float[Tensor, "batch patches pixels"]:
        own = self.embed(torch.cat([cls[:, None], seen], 1))
        whole = self.mask_token.to(own.dtype).expand(len(own), self.grid**2, -1)
        whole = whole.scatter(1, _wide(kept, own.shape[2]), own[:, 1:])
        x = torch.cat([own[:, :1], whole], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.pixels(self.norm(x))[:, 1:]


class MAEMethod(Method):
    """A ViT that sees a quarter of the patches, and a decoder, which is thrown away; positions are fixed."""

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
        self.decoder = Decoder(width, recipe.width, recipe.depth, backbone.grid, 3 * backbone.patch**2)

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        images = batch["images"]
        (view,) = images.views
        side = view.shape[-1] // self.backbone.patch
        if side != self.backbone.grid:
            raise ConfigError(f"model.grid: {self.backbone.grid}, but the images have {side} patches side by side")
        index = images.index.cpu()
        draws = rng.uniforms(rng.stream_seed(0, "masks"), torch.full_like(index, self.now.step), index, side * side)
        order = draws.argsort(1).to(view.device)  # all orders alike (appendix A.1)
        kept = order[:, : max(round(side * side * (1 - self.recipe.masked)), 1)]
        cls, seen = self.backbone(view, kept)
        predicted = self.decoder(cls, seen, kept)
        masked = torch.ones_like(order, dtype=torch.bool).scatter(1, kept, False)
        loss = mae_loss(predicted, patch_pixels(view, self.backbone.patch), masked, self.recipe.normalize)
        return Losses(loss, {"loss": loss.detach()}, (cls if self.backbone.pool == "cls" else seen.mean(1)).detach())

    @property
    def result(self) -> nn.Module:
        return self.backbone


def _wide(index: Tensor, width: int) -> Tensor:
    return index[..., None].expand(-1, -1, width)
