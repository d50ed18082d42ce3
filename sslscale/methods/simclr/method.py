"""SimCLR: two views of an image attract each other, all other images of the global batch repel (arXiv:2002.05709)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import in_float32
from sslscale.methods.method import Losses, Method
from sslscale.methods.simclr import SimCLR
from sslscale.nn.classifier import build_backbone
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


@in_float32
def nt_xent(first: Float[Tensor, "batch dim"], second: Float[Tensor, "batch dim"], temperature: float) -> Tensor:
    """NT-Xent (eq. 1), the mean over this worker's 2 * batch anchors; the negatives are the views of all workers.

    l(i, j) = -log(exp(sim(z_i, z_j) / t) / sum_{k != i} exp(sim(z_i, z_k) / t)), sim the cosine; float32.
    """
    mine = F.normalize(torch.cat([first, second]).float(), dim=1)
    own_first, own_second = mine.chunk(2)
    every = torch.cat([distributed.gather(own_first), distributed.gather(own_second)])
    batch, total = len(first), len(every) // 2
    place = distributed.rows(batch).start + torch.arange(batch, device=mine.device)
    itself, other = torch.cat([place, place + total]), torch.cat([place + total, place])
    logits = mine @ every.T / temperature
    logits = logits.scatter(1, itself[:, None], float("-inf"))
    return distributed.mean(F.cross_entropy(logits, other, reduction="none"))


class SimCLRMethod(Method):
    """A backbone, and a projector of two layers (D-D-128, batch norm after each) that is thrown away afterwards."""

    def __init__(self, settings: SimCLR, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_backbone(model)
        self.projector = nn.Sequential(
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, settings.projection, bias=False),
            nn.BatchNorm1d(settings.projection),
        )

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        views = batch["images"].views
        # both views go through the network at once, as in the authors' code: batch norm sees 2 * batch images
        first, second = self.projector(self.backbone(torch.cat(views))).chunk(2)
        loss = nt_xent(first, second, self.settings.temperature)
        return Losses(loss, {"loss": loss.detach()}, first.detach())

    @property
    def result(self) -> nn.Module:
        return self.backbone
