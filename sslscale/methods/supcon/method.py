"""Supervised contrastive learning: all images of a class attract each other (arXiv:2004.11362)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import in_float32
from sslscale.methods.method import Losses, Method
from sslscale.methods.supcon import SupCon
from sslscale.nn.classifier import build_backbone
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float, Int


@in_float32
def supcon_loss(
    first: Float[Tensor, "batch dim"],
    second: Float[Tensor, "batch dim"],
    label: Int[Tensor, " batch"],
    temperature: float,
) -> Float[Tensor, ""]:
    """L_out (eq. 2), the mean over this worker's 2 * batch anchors.

    sum_i -1 / |P(i)| sum_{p in P(i)} log(exp(z_i . z_p / t) / sum_{a != i} exp(z_i . z_a / t)); P(i) are the other
    views of i's class among all workers. An image with the label -1 has its own other view alone. (The authors' code
    multiplies by temperature / .07, which is left to the learning rate.)
    """
    mine = F.normalize(torch.cat([first, second]).float(), dim=1)
    own_first, own_second = mine.chunk(2)
    every = torch.cat([distributed.gather(own_first), distributed.gather(own_second)])
    labels = distributed.gather(label)
    total, batch = len(labels), len(label)
    place = distributed.rows(batch).start + torch.arange(batch, device=mine.device)
    alone = -1 - torch.arange(total, device=mine.device)  # a class of its own for each image without one
    labels = torch.where(labels < 0, alone, labels).repeat(2)
    itself = torch.cat([place, place + total])
    others = torch.ones(2 * batch, 2 * total, dtype=torch.bool, device=mine.device).scatter(1, itself[:, None], False)
    logits = (mine @ every.T / temperature).masked_fill(~others, float("-inf"))
    log_probs = F.log_softmax(logits, dim=1)
    positive = (labels[itself][:, None] == labels) & others
    return -distributed.mean(log_probs.masked_fill(~positive, 0).sum(1) / positive.sum(1))


class SupConMethod(Method):
    """A backbone, and a projector of two layers (D-D-128, as the authors' without batch norm)."""

    def __init__(self, settings: SupCon, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_backbone(model)
        self.projector = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, settings.projection))

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        images = batch[self.settings.stream]
        label = images.soft_label.argmax(1) if self.settings.stream == "pseudo" else images.label
        first, second = self.projector(self.backbone(torch.cat(images.views))).chunk(2)
        loss = supcon_loss(first, second, label, self.settings.temperature)
        return Losses(loss, {"loss": loss.detach()}, first.detach())

    @property
    def result(self) -> nn.Module:
        return self.backbone
