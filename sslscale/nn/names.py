"""The names of a vision transformer's weights in timm, and in the files that DINO, DINOv2 and MAE publish.

ResNets need no table: ours are torchvision's and timm's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_TIMM = (  # ours, timm's
    (r"positions", r"pos_embed"),
    (r"registers", r"reg_token"),
    (r"distillation_token", r"dist_token"),
    (r"patch_embed\.(weight|bias)", r"patch_embed.proj.\1"),
    (r"blocks\.(\d+)\.scale([12])", r"blocks.\1.ls\2.gamma"),
    (r"blocks\.(\d+)\.mlp\.0\.(weight|bias)", r"blocks.\1.mlp.fc1.\2"),
    (r"blocks\.(\d+)\.mlp\.2\.(weight|bias)", r"blocks.\1.mlp.fc2.\2"),
)
_OURS = (  # timm's or the authors', ours
    (r"pos_embed", r"positions"),
    (r"(?:reg_token|register_tokens)", r"registers"),
    (r"dist_token", r"distillation_token"),
    (r"patch_embed\.proj\.(weight|bias)", r"patch_embed.\1"),
    (r"blocks\.(\d+)\.ls([12])\.gamma", r"blocks.\1.scale\2"),
    (r"blocks\.(\d+)\.mlp\.fc1\.(weight|bias)", r"blocks.\1.mlp.0.\2"),
    (r"blocks\.(\d+)\.mlp\.fc2\.(weight|bias)", r"blocks.\1.mlp.2.\2"),
)


def to_timm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A vision transformer's weights under timm's names.

    timm's registers have positions, unless no token but the patches has one (no_embed_class): with registers, the class
    token's position is added to the token itself, which computes the same.
    """
    weights = dict(weights)
    if "registers" in weights:
        weights["cls_token"] = weights["cls_token"] + weights["positions"][:, :1]
        weights["positions"] = weights["positions"][:, 1:].contiguous()
    return {_renamed(name, _TIMM): value for name, value in weights.items()}


def from_timm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same under ours. A class token without a position (timm's models with registers) gets one of zeros."""
    found = {_renamed(name, _OURS): value for name, value in weights.items()}
    positions = found.get("positions")
    if positions is not None and positions.ndim == 3 and round(positions.shape[1] ** 0.5) ** 2 == positions.shape[1]:
        found["positions"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], 1)
    return found


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in table:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return name
