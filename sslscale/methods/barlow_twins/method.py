"""Barlow Twins: the correlation matrix of two views' embeddings becomes the identity (arXiv:2103.03230)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import in_float32
from sslscale.methods.barlow_twins import BarlowTwins
from sslscale.methods.method import Losses, Method
from sslscale.nn.classifier import build_backbone
from sslscale.nn.heads import mlp
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float

_EPSILON = 1e-5  # of the authors' batch norm


@in_float32
def barlow_twins_loss(
    first: Float[Tensor, "batch dim"], second: Float[Tensor, "batch dim"], off_diagonal: float
) -> Float[Tensor, ""]:
    """Eq. 1: sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2, over the batches of all workers.

    C_ij = mean_b a_bi b_bj (eq. 2) of embeddings scaled to mean 0 and variance 1 by dimension.
    """
    a, b = (distributed.gather(z.float()) for z in (first, second))
    a, b = ((z - z.mean(0)) / (z.var(0, unbiased=False) + _EPSILON).sqrt() for z in (a, b))
    correlation = a.T @ b / len(a)
    diagonal = correlation.diagonal()
    others = correlation.square().sum() - diagonal.square().sum()
    return (1 - diagonal).square().sum() + off_diagonal * others


class BarlowTwinsMethod(Method):
    """A backbone, and a projector of three layers that is thrown away afterwards."""

    def __init__(self, settings: BarlowTwins, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_backbone(model)
        self.projector = mlp([width, *[settings.projection] * 3])

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        # one view after the other: each has its own batch statistics, as in the authors' code
        first, second = (self.projector(self.backbone(view)) for view in batch["images"].views)
        loss = barlow_twins_loss(first, second, self.settings.off_diagonal)
        return Losses(loss, {"loss": loss.detach()}, first.detach())

    @property
    def result(self) -> nn.Module:
        return self.backbone
