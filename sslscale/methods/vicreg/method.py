"""VICReg: views agree, every dimension varies, and dimensions are uncorrelated (arXiv:2105.04906)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import in_float32
from sslscale.methods.method import Losses, Method
from sslscale.methods.vicreg import VICReg
from sslscale.nn.classifier import build_backbone
from sslscale.nn.heads import mlp
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float

_EPSILON = 1e-4


@in_float32
def vicreg_terms(
    first: Float[Tensor, "batch dim"], second: Float[Tensor, "batch dim"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Invariance, variance and covariance over the batches of all workers, as the authors' code has them.

    Invariance is the mean squared difference over images and dimensions (eq. 5 sums over dimensions); variance is
    mean_j max(0, 1 - sqrt(Var(z_j) + eps)) (eq. 1), the mean of both views (eq. 6: their sum); covariance is
    sum_{i != j} Cov_ij^2 / dim (eqs. 3, 4), the sum of both views. Variances have n - 1 below.
    """
    a, b = (distributed.gather(z.float()) for z in (first, second))
    invariance = (a - b).square().mean()
    variance = covariance = a.new_zeros(())
    for z in (a, b):
        z = z - z.mean(0)
        variance = variance + torch.relu(1 - (z.var(0) + _EPSILON).sqrt()).mean() / 2
        matrix = z.T @ z / (len(z) - 1)
        covariance = covariance + (matrix.square().sum() - matrix.diagonal().square().sum()) / z.shape[1]
    return invariance, variance, covariance


class VICRegMethod(Method):
    """A backbone, and an expander of three layers that is thrown away afterwards."""

    def __init__(self, settings: VICReg, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_backbone(model)
        self.projector = mlp([width, *[settings.projection] * 3])

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        # one view after the other: each has its own batch statistics, as in the authors' code
        first, second = (self.projector(self.backbone(view)) for view in batch["images"].views)
        invariance, variance, covariance = vicreg_terms(first, second)
        settings = self.settings
        loss = settings.invariance * invariance + settings.variance * variance + settings.covariance * covariance
        parts = {"invariance": invariance, "variance": variance, "covariance": covariance}
        parts = {name: value.detach() for name, value in parts.items()}
        return Losses(loss, {"loss": loss.detach(), **parts}, first.detach())

    @property
    def result(self) -> nn.Module:
        return self.backbone
