"""Pseudo-labels on lines of text."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.methods.method import Losses
from sslscale.methods.text_lines import LineMethod, read_as
from sslscale.methods.text_pseudo_label import TextPseudoLabel


class TextPseudoLabelMethod(LineMethod):
    """A recogniser that learns what the average of its weights reads."""

    settings: TextPseudoLabel

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        lines, view = batch["labeled"], batch["unlabeled"].views[0]
        assert self.average is not None
        columns, student = self.read(lines.views[0], view)
        with torch.no_grad():
            teacher = self.average.eval()(view).float()
        loss, kept = read_as(self.network.head, student, teacher, self.settings.threshold)
        return self.losses(columns, lines, drawn["weight"], loss, {"kept": distributed.mean(kept.float())})
