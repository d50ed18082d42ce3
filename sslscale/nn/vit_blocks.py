"""The parts of a vision transformer: patch embedding, attention, blocks that can compute a part of their tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale.shapes import Float, Int

Tokens = Float[Tensor, "batch _ width"]
Wanted = slice | Int[Tensor, " rows"] | None


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def split(self, x: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values, each (batch, heads, tokens, width / heads)."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return q, k, v

    def forward(self, x: Tokens, wanted: Wanted = None) -> Tensor:
        """What all tokens attend to, or those that are `wanted` (see `Block`)."""
        q, k, v = self.split(x)
        if isinstance(wanted, slice):
            q, wanted = q[:, :, wanted], None
        return self.proj(_pick(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), wanted))


class Block(nn.Module):
    """Attention, then a perceptron, each normed before, each left out of some images with chance `drop`.

    With `wanted` it computes these tokens alone, of all as ever: a slice of every image's tokens, or rows of the whole
    batch's, one image after the other, which are then (rows, width). So a last block costs what is read of it.
    """

    def __init__(self, width: int, heads: int, drop: float, layer_scale: float | None):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scale1 = nn.Parameter(torch.full((width,), layer_scale)) if layer_scale else None
        self.scale2 = nn.Parameter(torch.full((width,), layer_scale)) if layer_scale else None
        self.drop = drop

    def forward(self, x: Tokens, wanted: Wanted = None) -> Tensor:
        size = x.shape
        x = _pick(x, wanted) + self._weighed(self.attn(self.norm1(x), wanted), self.scale1, size, wanted)
        return x + self._weighed(self.mlp(self.norm2(x)), self.scale2, size, wanted)

    def _weighed(self, added: Tensor, scale: Tensor | None, size: torch.Size, wanted: Wanted) -> Tensor:
        if scale is not None:
            added = added * scale
        if self.drop and self.training:
            kept = torch.rand(size[0], 1, 1, device=added.device) >= self.drop
            if isinstance(wanted, Tensor):
                kept = kept[wanted // size[1], 0]
            added = added * kept / (1 - self.drop)
        return added


def patch_pixels(images: Float[Tensor, "batch channels h w"], patch: int) -> Float[Tensor, "batch patches pixels"]:
    """The pixels of each patch, row by row; of a patch those of one colour after another."""
    batch, colours, height, width = images.shape
    cut = images.reshape(batch, colours, height // patch, patch, width // patch, patch)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, colours * patch * patch)


def _pick(x: Tokens, wanted: Wanted) -> Tensor:
    if isinstance(wanted, Tensor):
        return x.flatten(0, 1).index_select(0, wanted)
    return x if wanted is None else x[:, wanted]


class PatchEmbed(nn.Conv2d):
    """One linear layer for all patches: of images, or of the pixels of some patches."""

    def __init__(self, width: int, patch: int, channels: int = 3):
        super().__init__(channels, width, patch, patch)

    def forward(self, input: Float[Tensor, "batch channels h w"] | Float[Tensor, "batch seen pixels"]) -> Tokens:
        if input.dim() == 3:
            return F.linear(input, self.weight.flatten(1), self.bias)
        return super().forward(input).flatten(2).transpose(1, 2)


def initialize_linear(module: nn.Module) -> None:
    """Xavier's uniform weights, biases of 0, as the authors of ViT and MAE: narrow networks keep their signal, too."""
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.xavier_uniform_(child.weight)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
