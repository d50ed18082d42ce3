"""The Pi-model on CTC's columns."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.methods.method import Losses
from sslscale.methods.text_lines import LineMethod


class TextPiModelMethod(LineMethod):
    """A recogniser whose readings of two views agree."""

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        lines = batch["labeled"]
        columns, *both = self.read(lines.views[0], *batch["unlabeled"].views)
        first, second = (self.network.head(x).float() for x in both)
        squares = (first.softmax(2) - second.softmax(2)).square().flatten(1).mean(1)
        return self.losses(columns, lines, drawn["weight"], distributed.mean(squares))
