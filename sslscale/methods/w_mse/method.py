"""W-MSE: embeddings are whitened, so that they cannot collapse, and those of an image agree (arXiv:2007.06346)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.data.rng import stream_seed
from sslscale.data.transfer import to_device
from sslscale.errors import ConfigError
from sslscale.losses import in_float32
from sslscale.methods.method import Losses, Method
from sslscale.methods.w_mse import WMSE
from sslscale.nn.classifier import build_backbone
from sslscale.nn.heads import mlp
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float, Int


@in_float32
def whiten(z: Float[Tensor, "*groups rows dim"]) -> Float[Tensor, "*groups rows dim"]:
    """L^-1 (z - mean) of each group, where L L^T is its covariance (of n - 1; section 3.1)."""
    centred = z.float() - z.float().mean(-2, keepdim=True)
    covariance = centred.mT @ centred / (z.shape[-2] - 1)
    factor, _ = torch.linalg.cholesky_ex(covariance)  # without a look at its success, which a GPU would wait for
    return torch.linalg.solve_triangular(factor, centred.mT, upper=False).mT


@in_float32
def whitened_error(
    views: Float[Tensor, "views batch dim"], order: Int[Tensor, " batch"], rows: int
) -> Float[Tensor, ""]:
    """The mean of |u - v|^2 over all pairs of views (equation 4), u and v whitened and scaled to length 1.

    `rows` images, in the same random order in all views, are whitened together.
    """
    shuffled = views.float()[:, order].unflatten(1, (-1, rows))
    unit = F.normalize(whiten(shuffled).flatten(1, 2), dim=2)
    terms = [(2 - 2 * (unit[a] * unit[b]).sum(1)).mean() for a, b in combinations(range(len(unit)), 2)]
    return torch.stack(terms).mean()


class WMSEMethod(Method):
    """A backbone, and a projector of two layers that is thrown away."""

    def __init__(self, settings: WMSE, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_backbone(model)
        self.projector = mlp([width, settings.hidden, settings.projection])

    def draw(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """An order of the images of all workers, the same for each of them."""
        index = batch["images"].index
        count = distributed.total(len(index))
        wrong = self.settings.unsupported_batch(count)  # of a loop of the user's own: a configuration has been asked
        if wrong is not None:
            raise ConfigError(f"batch of {count} images: {wrong}")
        generator = torch.Generator().manual_seed(stream_seed(self.seed, f"order {self.step_info.step}"))
        return {"order": to_device(torch.randperm(count, generator=generator), index.device)}

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        own = [self.projector(self.backbone(view)) for view in batch["images"].views]
        every = torch.stack([distributed.gather(z.float()) for z in own])
        loss = whitened_error(every, drawn["order"], self.settings.whitened)
        return Losses(loss, {"loss": loss.detach()}, own[0].detach())

    @property
    def result(self) -> nn.Module:
        return self.backbone
