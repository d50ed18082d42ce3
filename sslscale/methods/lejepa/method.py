"""LeJEPA: embeddings of an image's views agree, and those of all images are normally distributed (arXiv:2511.08544)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.data.rng import stream_seed
from sslscale.data.transfer import to_device
from sslscale.losses import in_float32
from sslscale.methods.lejepa import LeJEPA
from sslscale.methods.method import Losses, Method
from sslscale.nn.classifier import build_backbone
from sslscale.nn.heads import mlp
from sslscale.nn.multi_crop import encode_views
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float

_LAST_KNOT = 3.0


@in_float32
def invariance(views: Float[Tensor, "views batch dim"], num_global: int) -> Float[Tensor, ""]:
    """The mean squared difference of all views from the mean of the global ones, over dimensions too."""
    z = views.float()
    return distributed.mean((z - z[:num_global].mean(0)).square().mean((0, 2)))


@in_float32
def sigreg(z: Float[Tensor, "batch dim"], directions: Float[Tensor, "dim directions"], knots: int) -> Float[Tensor, ""]:
    """Epps and Pulley's statistic of normality of a batch along each direction, the mean over directions.

    N int |phi_N(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt, where phi_N is the characteristic function of the batch of all
    workers, N its size: by the trapezoidal rule over [0, 3], doubled as the integrand is even.
    """
    count = distributed.total(len(z))
    t = torch.linspace(0, _LAST_KNOT, knots, device=z.device)
    normal = torch.exp(-t.square() / 2)
    weight = torch.full_like(t, 2 * _LAST_KNOT / (knots - 1))
    weight[:: knots - 1] /= 2
    angle = (z.float() @ directions)[..., None] * t
    mean = distributed.all_sum(torch.stack([angle.cos().sum(0), angle.sin().sum(0)])) / count
    error = (mean[0] - normal).square() + mean[1].square()
    return count * (error @ (weight * normal)).mean()


class LeJEPAMethod(Method):
    """A backbone, and a projector that is thrown away. There is no teacher, and no gradient is stopped."""

    def __init__(self, settings: LeJEPA, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_backbone(model)
        self.projector = mlp([width, settings.hidden, settings.hidden, settings.projection])

    def draw(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """Directions of length 1, the same on all workers."""
        generator = torch.Generator().manual_seed(stream_seed(self.seed, f"directions {self.step_info.step}"))
        drawn = torch.randn(self.settings.projection, self.settings.directions, generator=generator)
        return {"directions": to_device(drawn / drawn.norm(dim=0), batch["images"].index.device)}

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        views, settings = batch["images"].views, self.settings
        features = encode_views(self.backbone, views)
        z = torch.stack(self.projector(torch.cat(features)).chunk(len(views)))
        agreement = invariance(z, 2)
        normality = torch.stack([sigreg(view, drawn["directions"], settings.knots) for view in z]).mean()
        loss = (1 - settings.regularization) * agreement + settings.regularization * normality
        parts = {"loss": loss, "invariance": agreement, "sigreg": normality}
        return Losses(loss, {name: value.detach() for name, value in parts.items()}, features[0].detach())

    @property
    def result(self) -> nn.Module:
        return self.backbone
