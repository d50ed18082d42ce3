"""EMP-SSL: many patches of an image agree, images fill the space, in very few epochs (arXiv:2304.03977)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import in_float32
from sslscale.methods.emp_ssl import EMPSSL
from sslscale.methods.method import Losses, Method
from sslscale.nn.classifier import build_backbone
from sslscale.nn.heads import mlp
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


@in_float32
def coding_rate(z: Float[Tensor, "patches batch dim"], epsilon_squared: float) -> Float[Tensor, ""]:
    """Eq. 1's R: logdet(I + d / (b eps^2) Z Z^T) / 2 of the batch of all workers, the mean over patches."""
    z = distributed.gather(z.transpose(0, 1)).transpose(0, 1).float()
    _, batch, dim = z.shape
    # the determinant is the same of rows by rows and of columns by columns: take the smaller
    gram = z @ z.transpose(1, 2) if batch < dim else z.transpose(1, 2) @ z
    eye = torch.eye(gram.shape[1], device=z.device)
    root = torch.linalg.cholesky(eye + dim / (batch * epsilon_squared) * gram)
    return root.diagonal(dim1=1, dim2=2).log().sum(1).mean()  # half of logdet


def patch_invariance(z: Float[Tensor, "patches batch dim"]) -> Float[Tensor, ""]:
    """Eq. 1's D: the cosine of each patch and the mean of its image's patches, the mean over patches and images."""
    return distributed.mean(F.cosine_similarity(z.float(), z.float().mean(0, keepdim=True), dim=2).T)


class EMPSSLMethod(Method):
    """A backbone, and a projector whose outputs are scaled to length 1."""

    def __init__(self, settings: EMPSSL, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_backbone(model)
        self.projector = mlp([width, settings.hidden, settings.hidden, settings.projection])

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        views = batch["images"].views
        z = F.normalize(self.projector(self.backbone(torch.cat(views))).float(), dim=1).unflatten(0, (len(views), -1))
        rate, agreement = coding_rate(z, self.settings.epsilon_squared), patch_invariance(z)
        loss = -rate - self.settings.invariance * agreement
        parts = {"loss": loss, "coding_rate": rate, "invariance": agreement}
        return Losses(loss, {name: value.detach() for name, value in parts.items()}, z[0].detach())

    @property
    def result(self) -> nn.Module:
        return self.backbone
