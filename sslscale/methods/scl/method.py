"""Spectral contrastive learning: factors the graph of views that belong together (arXiv:2106.04156)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import in_float32
from sslscale.methods.method import Losses, Method
from sslscale.methods.scl import SCL
from sslscale.nn.classifier import build_backbone
from sslscale.nn.heads import mlp
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


@in_float32
def spectral_loss(
    first: Float[Tensor, "batch dim"], second: Float[Tensor, "batch dim"], mu: float
) -> Float[Tensor, ""]:
    """Eq. 6: -2 mean_i z_i . z'_i + mean_{i != j} (z_i . z'_j)^2, over mu, the mean over this worker's i.

    As the authors' code: an embedding longer than sqrt(mu) is cut to it, a shorter one stays; j runs over the images of
    all workers.
    """
    a, b = (z.float() for z in (first, second))
    a, b = (z * (mu**0.5 / z.norm(dim=1, keepdim=True).clamp(min=mu**0.5)) for z in (a, b))
    every = distributed.gather(b)
    together = (a * b).sum(1)
    apart = (a @ every.T).square().sum() - together.square().sum()
    own = -2 * together.mean() + apart / (len(a) * max(len(every) - 1, 1))
    return own * distributed.share(len(a)) / mu


class SCLMethod(Method):
    """A backbone, and a projector that is thrown away afterwards."""

    def __init__(self, settings: SCL, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_backbone(model)
        self.projector = mlp([width, *[settings.projection] * settings.layers], last="norm")

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        # one view after the other: each has its own batch statistics, as in the authors' code
        first, second = (self.projector(self.backbone(view)) for view in batch["images"].views)
        loss = spectral_loss(first, second, self.settings.mu)
        return Losses(loss, {"loss": loss.detach()}, first.detach())

    @property
    def result(self) -> nn.Module:
        return self.backbone
