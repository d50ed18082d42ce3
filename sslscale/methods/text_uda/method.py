"""Unsupervised data augmentation on lines of text."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import in_float32, mean_over_kept
from sslscale.methods.method import Losses
from sslscale.methods.text_lines import LineMethod, read_as
from sslscale.methods.text_uda import TextUDA
from sslscale.shapes import Float


class TextUDAMethod(LineMethod):
    """A recogniser that reads strong views as weak ones."""

    settings: TextUDA

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        lines, own = batch["labeled"], self.settings
        columns, weak, strong = self.read(lines.views[0], *batch["unlabeled"].views)
        head = self.network.head
        with torch.no_grad():
            said = head(weak.detach()).float()
        if own.consistency == "sequence":
            loss, kept = read_as(head, strong, said, own.threshold)
            share = distributed.mean(kept.float())
        else:
            distance, mask = column_divergence(head(strong).float(), said, own.threshold, own.temperature)
            loss = mean_over_kept(distance.flatten(), mask.flatten())
            share = distributed.mean(mask.mean(1))
        return self.losses(columns, lines, drawn["weight"], loss, {"kept": share})


@in_float32
def column_divergence(
    strong: Float[Tensor, "batch times chars"],
    weak: Float[Tensor, "batch times chars"],
    threshold: float,
    temperature: float,
) -> tuple[Float[Tensor, "batch times"], Float[Tensor, "batch times"]]:
    """KL(softmax(weak / temperature) || softmax(strong)) of each column, and 1 for the columns that count."""
    confidence, char = weak.softmax(2).max(2)
    target = F.log_softmax(weak / temperature, 2)
    distance = (target.exp() * (target - F.log_softmax(strong, 2))).sum(2)
    return distance, torch.logical_and(char != 0, confidence >= threshold).float()
