"""Vision transformers (Dosovitskiy et al. 2021, arXiv:2010.11929) that give their tokens, for images of any size."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale.data.transfer import to_device

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    Tokens = Float[Tensor, "batch tokens width"]
    Wanted = slice | Int[Tensor, " rows"] | None

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


def patch_pixels(images: Float[Tensor, "batch 3 h w"], patch: int) -> Float[Tensor, "batch patches pixels"]:
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

    def __init__(self, width: int, patch: int):
        super().__init__(3, width, patch, patch)

    def forward(self, input: Float[Tensor, "batch 3 h w"] | Float[Tensor, "batch seen pixels"]) -> Tokens:
        if input.dim() == 3:
            return F.linear(input, self.weight.flatten(1), self.bias)
        return super().forward(input).flatten(2).transpose(1, 2)


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
        self.patch_embed = PatchEmbed(width, patch)
        drops = [(1 - survival) * n / max(depth - 1, 1) for n in range(depth)]
        self.blocks = nn.ModuleList(Block(width, heads, drop, layer_scale) for drop in drops)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        for weight in (self.cls_token, self.positions, self.registers, self.distillation_token):
            if weight is not None:
                nn.init.trunc_normal_(weight, std=0.02)
        initialize_linear(self)
        scale = 1 / math.sqrt(3 * patch * patch)
        nn.init.uniform_(self.patch_embed.weight, -scale, scale)  # as a linear layer's

    def forward(self, x: Tensor, kept: Int[Tensor, "batch seen"] | None = None) -> Any:
        """The features of images (batch, 3, h, w), as (batch, width).

        With `kept` an image is some of its patches, those in these places: `x` are their pixels, (batch, seen, pixels)
        as `patch_pixels` has them, and the result the class token and these patches, (batch, 1 + seen, width).
        """
        if kept is not None:
            rows = self.patch_embed(x) + self.positions[0, 1 + kept]
            tokens = self._encoded(rows, self.positions[:, :1])
            return torch.cat([tokens[:, :1], tokens[:, 1 + self._extra :]], 1) if self._extra else tokens
        if self.distillation_token is None and self.pool == "mean":
            return self.tokens(x)[1].mean(1)
        return self._encoded(*self._placed(x), slice(0, 1 if self.distillation_token is None else 2)).flatten(1)

    def tokens(self, x: Float[Tensor, "batch 3 h w"]) -> tuple[Float[Tensor, "batch width"], Tokens]:
        """The class token and the patches, normed."""
        tokens = self._encoded(*self._placed(x))
        return tokens[:, 0], tokens[:, 1 + self._extra :]

    def masked_tokens(
        self,
        x: Float[Tensor, "batch 3 h w"],
        masked: Bool[Tensor, "batch patches"],
        mask_token: Float[Tensor, " width"] | None = None,
        *,
        places: Int[Tensor, " masked"] | None = None,
    ) -> tuple[Float[Tensor, "batch width"], Float[Tensor, "masked width"]]:
        """The class tokens and, row by row, the masked patches alone, normed. Masked patches enter as the mask token,
        in their place, or as they are if there is none. Without their `places`, `masked` is on the host, which must
        know how many there are."""
        before = 1 + self._extra
        if places is None:
            places, masked = to_device(self.places(masked), x.device), to_device(masked, x.device)
        patches, cls_position = self._placed(x, masked, mask_token)
        first = torch.arange(len(x), device=places.device) * (before + masked.shape[1])
        tokens = self._encoded(patches, cls_position, torch.cat([first, places]))
        return tokens[: len(x)], tokens[len(x) :]

    def places(self, masked: Bool[Tensor, "batch patches"]) -> Int[Tensor, " masked"]:
        """Where the masked patches stand among all tokens of all images; `masked` is on the host."""
        return F.pad(masked, (1 + self._extra, 0)).flatten().nonzero()[:, 0]

    def patches(self, x: Float[Tensor, "batch 3 h w"]) -> tuple[Tokens, int]:
        """Embedded patches, row by row, without positions; and how many stand side by side."""
        if x.shape[-1] % self.patch or x.shape[-1] != x.shape[-2]:
            raise ValueError(
                f"images of {x.shape[-2]} x {x.shape[-1]} are not squares of patches of {self.patch} pixels"
            )
        return self.patch_embed(x), x.shape[-1] // self.patch

    def _placed(
        self, x: Tensor, masked: Tensor | None = None, mask_token: Tensor | None = None
    ) -> tuple[Tokens, Tensor]:
        """Embedded patches with their positions, and the class token's position."""
        patches, side = self.patches(x)
        if masked is not None and mask_token is not None:
            patches = torch.where(masked[..., None], mask_token.to(patches.dtype), patches)
        positions = resize_positions(self.positions, side)
        return patches + positions[:, 1:], positions[:, :1]

    def _encoded(self, patches: Tokens, cls_position: Tensor, wanted: Wanted = None) -> Tensor:
        """The `wanted` tokens after all blocks, normed."""
        x = self._run(self._assemble(patches, cls_position), len(self.blocks) - 1)
        return self.norm(self.blocks[-1](x, wanted))

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
        side = x.shape[-1] // self.patch
        tokens = self._run(self._assemble(*self._placed(x)), len(self.blocks) - 1)
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
