"""Masked autoencoder: three quarters of an image's patches are told from the rest (arXiv:2111.06377)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.data.transfer import to_device
from sslscale.errors import ConfigError
from sslscale.methods.mae import MAE
from sslscale.methods.method import Losses, Method
from sslscale.nn.classifier import build_vit
from sslscale.nn.masks import patch_orders
from sslscale.nn.positions import sincos_positions
from sslscale.nn.vit_blocks import Block, initialize_linear, patch_pixels
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float, Int


def mae_loss(
    predicted: Float[Tensor, "*masked pixels"], pixels: Float[Tensor, "*masked pixels"], normalize: bool
) -> Float[Tensor, ""]:
    """Section 3: the mean squared error of the masked patches' pixels; with `normalize` each patch's pixels are scaled
    to mean 0 and variance 1 first (of n - 1, plus 1e-6, as in the authors' code)."""
    target = pixels.float()
    if normalize:
        target = target - target.mean(-1, keepdim=True)
        variance = target.square().sum(-1, keepdim=True) / (target.shape[-1] - 1)  # var(-1) takes ten times as long
        target = target / (variance + 1e-6).sqrt()
    return distributed.mean((predicted.float() - target).square())


class Decoder(nn.Module):
    """Light blocks that make the pixels of the masked patches from the others; positions are fixed (section 3).

    The tokens stand in the order of the draw, the masked ones last: attention knows places by their positions alone.
    """

    positions: Tensor

    def __init__(self, features: int, width: int, depth: int, grid: int, pixels: int):
        super().__init__()
        self.embed = nn.Linear(features, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.blocks = nn.ModuleList(Block(width, max(width // 32, 1), 0.0, None) for _ in range(depth))
        self.norm, self.pixels = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, pixels)
        nn.init.normal_(self.mask_token, std=0.02)
        for part in (self.embed, self.blocks, self.pixels):
            initialize_linear(part)
        self.register_buffer("positions", sincos_positions(width, grid), persistent=False)

    def forward(
        self, tokens: Float[Tensor, "batch seen width"], order: Int[Tensor, "batch patches"]
    ) -> Float[Tensor, "batch masked pixels"]:
        """Pixels of the last patches of `order`; `tokens` are the class token and the first ones."""
        own = self.embed(tokens)
        seen = own.shape[1]
        hidden = self.mask_token.to(own.dtype).expand(len(own), 1 + order.shape[1] - seen, -1)
        x = torch.cat([own, hidden], 1) + self.positions[0, F.pad(order + 1, (1, 0))]
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        return self.pixels(self.norm(last(x, slice(seen, None))))


class MAEMethod(Method):
    """A ViT that sees a quarter of the patches, and a decoder, which is thrown away; positions are fixed."""

    def __init__(self, settings: MAE, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_vit(model, fixed_positions=True)
        pixels = model.channels * self.backbone.patch**2
        self.decoder = Decoder(width, settings.width, settings.depth, self.backbone.grid, pixels)

    def draw(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """The order of each image's patches: the first ones are seen."""
        images = batch["images"]
        view, index = images.views[0], images.host_index
        count = (view.shape[-1] // self.backbone.patch) ** 2
        order = patch_orders(self.step_info.step, index, count)
        return {"order": to_device(order, view.device)}  # all orders alike (appendix A.1)

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        (view,) = batch["images"].views
        order = drawn["order"]
        side = view.shape[-1] // self.backbone.patch
        if side != self.backbone.grid:
            raise ConfigError(f"model.grid: {self.backbone.grid}, but the images have {side} patches side by side")
        count = max(round(side * side * (1 - self.settings.masked)), 1)
        pixels = patch_pixels(view, self.backbone.patch)
        first = side * side * torch.arange(len(order), device=view.device)
        taken = pixels.flatten(0, 1)[(order + first[:, None]).flatten()].view_as(pixels)
        tokens = self.backbone(taken[:, :count], order[:, :count])
        loss = mae_loss(self.decoder(tokens, order), taken[:, count:], self.settings.normalize)
        features = (tokens[:, 0] if self.backbone.pool == "cls" else tokens[:, 1:].mean(1)).detach()
        return Losses(loss, {"loss": loss.detach()}, features)

    @property
    def result(self) -> nn.Module:
        return self.backbone
