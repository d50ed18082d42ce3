"""Vision transformers (Dosovitskiy et al. 2021, arXiv:2010.11929) that give their tokens, for images of any size."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    Tokens = Float[Tensor, "batch tokens width"]

SIZES = {"tiny": (192, 12), "small": (384, 12), "base": (768, 12), "large": (1024, 24)}  # width, depth


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

    def forward(self, x: Tokens) -> Tokens:
        return self.proj(F.scaled_dot_product_attention(*self.split(x)).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then a perceptron, each normed before, each left out of some images with chance `drop`."""

    def __init__(self, width: int, heads: int, drop: float, layer_scale: float | None):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scale1 = nn.Parameter(torch.full((width,), layer_scale)) if layer_scale else None
        self.scale2 = nn.Parameter(torch.full((width,), layer_scale)) if layer_scale else None
        self.drop = drop

    def forward(self, x: Tokens) -> Tokens:
        for norm, layer, scale in ((self.norm1, self.attn, self.scale1), (self.norm2, self.mlp, self.scale2)):
            added = layer(norm(x))
            if scale is not None:
                added = added * scale
            if self.drop and self.training:
                kept = torch.rand(len(x), 1, 1, device=x.device) >= self.drop
                added = added * kept / (1 - self.drop)
            x = x + added
        return x


class VisionTransformer(nn.Module):
    """Patches, a class token, blocks, a norm. Its features are the class token, or the mean of the patches.

    `grid` is the side of the learned positions in patches; for an image of another size they are resized bicubically.
    `registers` tokens take part and are thrown away (Darcet et al. 2024, arXiv:2309.16588). With a `distillation_token`
    the features are the class token and that one, side by side (DeiT, arXiv:2012.12877).
    """

    def __init__(
        self,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        *,
        grid: int,
        registers: int = 0,
        survival: float = 1.0,
        layer_scale: float | None = None,
        pool: Literal["cls", "mean"] = "cls",
        distillation_token: bool = False,
    ):
        super().__init__()
        self.patch, self.grid, self.pool = patch, grid, pool
        self.num_features = 2 * width if distillation_token else width
        # it stands always in one place, so it needs no position
        self.distillation_token = nn.Parameter(torch.empty(1, 1, width)) if distillation_token else None
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + grid * grid, width))
        self.registers = nn.Parameter(torch.empty(1, registers, width)) if registers else None
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        drops = [(1 - survival) * n / max(depth - 1, 1) for n in range(depth)]
        self.blocks = nn.ModuleList(Block(width, heads, drop, layer_scale) for drop in drops)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        for weight in (self.cls_token, self.positions, self.registers, self.distillation_token):
            if weight is not None:
                nn.init.trunc_normal_(weight, std=0.02)
        initialize_linear(self)
        scale = 1 / math.sqrt(3 * patch * patch)
        nn.init.uniform_(self.patch_embed.weight, -scale, scale)  # as a linear layer's

    def forward(self, x: Float[Tensor, "batch 3 h w"], kept: Int[Tensor, "batch seen"] | None = None) -> Any:
        """The features, (batch, width); of `kept` patches alone the class token and those patches (see `encode`)."""
        if kept is not None:
            patches, _ = self.patches(x)
            rows = (patches + self.positions[:, 1:]).gather(1, kept[..., None].expand(-1, -1, patches.shape[2]))
            return self.encode(rows, self.positions[:, :1])
        if self.distillation_token is not None:
            patches, side = self.patches(x)
            positions = resize_positions(self.positions, side)
            return self._encoded(patches + positions[:, 1:], positions[:, :1])[:, :2].flatten(1)
        cls, patches = self.tokens(x)
        return cls if self.pool == "cls" else patches.mean(1)

    def tokens(
        self,
        x: Float[Tensor, "batch 3 h w"],
        masked: Bool[Tensor, "batch patches"] | None = None,
        mask_token: Float[Tensor, " width"] | None = None,
    ) -> tuple[Float[Tensor, "batch width"], Tokens]:
        """The class token and the patches, normed; masked patches enter as the mask token, in their place."""
        patches, side = self.patches(x)
        if masked is not None and mask_token is not None:
            patches = torch.where(masked[..., None], mask_token.to(patches.dtype), patches)
        positions = resize_positions(self.positions, side)
        return self.encode(patches + positions[:, 1:], positions[:, :1])

    def patches(self, x: Float[Tensor, "batch 3 h w"]) -> tuple[Tokens, int]:
        """Embedded patches, row by row, without positions; and how many stand side by side."""
        if x.shape[-1] % self.patch or x.shape[-1] != x.shape[-2]:
            raise ValueError(
                f"images of {x.shape[-2]} x {x.shape[-1]} are not squares of patches of {self.patch} pixels"
            )
        return self.patch_embed(x).flatten(2).transpose(1, 2), x.shape[-1] // self.patch

    def encode(self, patches: Tokens, cls_position: Tensor) -> tuple[Float[Tensor, "batch width"], Tokens]:
        """Class token and patches after all blocks, normed; the patches have their positions."""
        x = self._encoded(patches, cls_position)
        return x[:, 0], x[:, 1 + self._extra :]

    def _encoded(self, patches: Tokens, cls_position: Tensor) -> Tokens:
        return self.norm(self._run(self._assemble(patches, cls_position), len(self.blocks)))

    @property
    def _extra(self) -> int:
        return sum(token.shape[1] for token in (self.distillation_token, self.registers) if token is not None)

    def _assemble(self, patches: Tokens, cls_position: Tensor) -> Tokens:
        batch = len(patches)
        parts = [(self.cls_token + cls_position).expand(batch, -1, -1)]
        parts += [x.expand(batch, -1, -1) for x in (self.distillation_token, self.registers) if x is not None]
        return torch.cat([*parts, patches], 1)

    def _run(self, x: Tokens, count: int) -> Tokens:
        for block in list(self.blocks)[:count]:
            x = block(x)
        return x

    @torch.no_grad()
    def attention(self, x: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch heads side side"]:
        """How much the class token attends to each patch in the last block (DINO, arXiv:2104.14294, figure 1)."""
        patches, side = self.patches(x)
        positions = resize_positions(self.positions, side)
        tokens = self._run(self._assemble(patches + positions[:, 1:], positions[:, :1]), len(self.blocks) - 1)
        last: Any = self.blocks[-1]
        q, k, _ = last.attn.split(last.norm1(tokens))
        weights = (q[:, :, :1] @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1)
        return weights[:, :, 0, 1 + self._extra :].unflatten(2, (side, side))


def initialize_linear(module: nn.Module) -> None:
    """Xavier's uniform weights, biases of 0, as the authors of ViT and MAE: narrow networks keep their signal, too."""
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.xavier_uniform_(child.weight)
            if child.bias is not None:
                nn.init.zeros_(child.bias)


def resize_positions(positions: Float[Tensor, "1 tokens width"], side: int) -> Float[Tensor, "1 tokens width"]:
    """Positions of a class token and a square of patches, for a square of another side: bicubic."""
    own = math.isqrt(positions.shape[1] - 1)
    if own == side:
        return positions
    square = positions[:, 1:].unflatten(1, (own, own)).permute(0, 3, 1, 2).float()
    square = F.interpolate(square, (side, side), mode="bicubic", align_corners=False, antialias=side < own)
    return torch.cat([positions[:, :1], square.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)], 1)


def sincos_positions(width: int, side: int) -> Float[Tensor, "1 tokens width"]:
    """Fixed positions of a class token (0) and a square of patches: half the width tells the column, half the row, each
    by sines and cosines of frequencies from 1 down to 1 / 10,000 (Vaswani et al. 2017; MAE's code)."""
    frequency = 1 / 10_000 ** (torch.arange(width // 4) / (width // 4))
    angle = torch.arange(side)[:, None] * frequency
    one = torch.cat([angle.sin(), angle.cos()], 1)  # (side, width / 2)
    both = torch.cat([one[None].expand(side, -1, -1), one[:, None].expand(-1, side, -1)], 2)
    return torch.cat([torch.zeros(1, width), both.flatten(0, 1)])[None]
