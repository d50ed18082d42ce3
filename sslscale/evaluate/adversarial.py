"""Attacks by the gradient of the loss, within a distance of epsilon in every value of the image."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sslscale.shapes import Float, Int


def _gradient(logits: Callable[[Tensor], Tensor], x: Tensor, labels: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits(x), labels, reduction="sum"), x)
    return gradient


def fgsm(
    logits: Callable[[Tensor], Tensor],
    images: Float[Tensor, "n channels h w"],
    labels: Int[Tensor, " n"],
    epsilon: float,
) -> Float[Tensor, "n channels h w"]:
    """One step: x + epsilon sign(dL/dx), kept in 0 .. 1 (Goodfellow et al. 2015, arXiv:1412.6572, section 4)."""
    return (images + epsilon * _gradient(logits, images, labels).sign()).clamp(0, 1)


def pgd(
    logits: Callable[[Tensor], Tensor],
    images: Float[Tensor, "n channels h w"],
    labels: Int[Tensor, " n"],
    epsilon: float,
    *,
    steps: int,
    generator: Generator,
) -> Float[Tensor, "n channels h w"]:
    """Steps of 2.5 epsilon / steps along the gradient's sign, back into the box after each, from a random point of it
    (Madry et al. 2018, arXiv:1706.06083, section 2.1; their code's step). `generator` is a CPU generator."""
    start = epsilon * (2 * torch.rand(images.shape, generator=generator) - 1).to(images.device)
    x = (images + start).clamp(0, 1)
    for _ in range(steps):
        x = x + 2.5 * epsilon / steps * _gradient(logits, x, labels).sign()
        x = torch.minimum(torch.maximum(x, images - epsilon), images + epsilon).clamp(0, 1)
    return x
