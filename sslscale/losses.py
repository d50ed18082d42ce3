"""Losses that more than one method uses: plain functions, unreduced unless they say otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


def soft_cross_entropy(
    logits: Float[Tensor, "batch classes"], target: Float[Tensor, "batch classes"]
) -> Float[Tensor, " batch"]:
    """-sum_k target_k log softmax(logits)_k, in float32."""
    return -(target * F.log_softmax(logits.float(), dim=-1)).sum(-1)


def smooth_labels(label: Int[Tensor, " batch"], num_classes: int, smoothing: float) -> Float[Tensor, "batch classes"]:
    """One-hot labels mixed with the uniform distribution (Szegedy et al. 2016, arXiv:1512.00567, section 7)."""
    hot = F.one_hot(label, num_classes).float()
    return hot * (1 - smoothing) + smoothing / num_classes


def sharpen(probs: Float[Tensor, "batch classes"], temperature: float) -> Float[Tensor, "batch classes"]:
    """p_k^(1/T) / sum_j p_j^(1/T)."""
    return probs if temperature == 1.0 else torch.softmax(torch.log(probs.clamp(min=1e-30)) / temperature, dim=-1)
