"""Vision transformers (Dosovitskiy et al. 2021, arXiv:2010.11929) that give their tokens, for images of any size."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale.data.transfer import to_device
from sslscale.nn.positions import resize_positions
from sslscale.nn.vit_blocks import Block, PatchEmbed, initialize_linear
from sslscale.shapes import Bool, Float, Int

Tokens = Float[Tensor, "batch _ width"]
Wanted = slice | Int[Tensor, " rows"] | None


SIZES = {"tiny": (192, 12), "small": (384, 12), "base": (768, 12), "large": (1024, 24)}  # width, depth


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
        channels: int = 3,
    ):
        super().__init__()
        self.patch, self.grid, self.pool = patch, grid, pool
        self.num_features = 2 * width if distillation_token else width
        # it stands always in one place, so it needs no position
        self.distillation_token = nn.Parameter(torch.empty(1, 1, width)) if distillation_token else None
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + grid * grid, width))
        self.registers = nn.Parameter(torch.empty(1, registers, width)) if registers else None
        self.patch_embed = PatchEmbed(width, patch, channels)
        drops = [(1 - survival) * n / max(depth - 1, 1) for n in range(depth)]
        self.blocks = nn.ModuleList(Block(width, heads, drop, layer_scale) for drop in drops)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        for weight in (self.cls_token, self.positions, self.registers, self.distillation_token):
            if weight is not None:
                nn.init.trunc_normal_(weight, std=0.02)
        initialize_linear(self)
        scale = 1 / math.sqrt(channels * patch * patch)
        nn.init.uniform_(self.patch_embed.weight, -scale, scale)  # as a linear layer's

    def forward(self, x: Tensor, kept: Int[Tensor, "batch seen"] | None = None) -> Any:
        """The features of images (batch, channels, h, w), as (batch, width).

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

    def tokens(self, x: Float[Tensor, "batch channels h w"]) -> tuple[Float[Tensor, "batch width"], Tokens]:
        """The class token and the patches, normed."""
        tokens = self._encoded(*self._placed(x))
        return tokens[:, 0], tokens[:, 1 + self._extra :]

    def masked_tokens(
        self,
        x: Float[Tensor, "batch channels h w"],
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

    def every_token(
        self,
        x: Float[Tensor, "batch channels h w"],
        masked: Bool[Tensor, "batch patches"],
        mask_token: Float[Tensor, " width"],
    ) -> tuple[Float[Tensor, "batch width"], Tokens]:
        """The class tokens and all patches, normed, where masked patches enter as the mask token. `masked` is on the
        device."""
        tokens = self._encoded(*self._placed(x, masked, mask_token))
        return tokens[:, 0], tokens[:, 1 + self._extra :]

    def places(self, masked: Bool[Tensor, "batch patches"]) -> Int[Tensor, " masked"]:
        """Where the masked patches stand among all tokens of all images; `masked` is on the host."""
        return F.pad(masked, (1 + self._extra, 0)).flatten().nonzero()[:, 0]

    def patches(self, x: Float[Tensor, "batch channels h w"]) -> tuple[Tokens, int]:
        """Embedded patches, row by row, without positions; and how many stand side by side."""
        if x.shape[-1] % self.patch or x.shape[-1] != x.shape[-2]:
            raise ValueError(
                f"images of {x.shape[-2]} x {x.shape[-1]} are not squares of patches of {self.patch} pixels"
            )
        return self.patch_embed(x), int(x.shape[-1]) // self.patch  # a tracer's sizes are tensors

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
        batch = patches.shape[0]  # len() would fix the batch size of an exported graph
        parts = [(self.cls_token + cls_position).expand(batch, -1, -1)]
        parts += [x.expand(batch, -1, -1) for x in (self.distillation_token, self.registers) if x is not None]
        return torch.cat([*parts, patches], 1)

    def _run(self, x: Tokens, count: int) -> Tokens:
        for block in list(self.blocks)[:count]:
            x = block(x)
        return x

    @torch.no_grad()
    def attention(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch heads side side"]:
        """How much the class token attends to each patch in the last block (DINO, arXiv:2104.14294, figure 1)."""
        side = x.shape[-1] // self.patch
        tokens = self._run(self._assemble(*self._placed(x)), len(self.blocks) - 1)
        last: Any = self.blocks[-1]
        q, k, _ = last.attn.split(last.norm1(tokens))
        weights = (q[:, :, :1] @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1)
        return weights[:, :, 0, 1 + self._extra :].unflatten(2, (side, side))
