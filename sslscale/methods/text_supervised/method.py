"""Learning to read from transcribed lines alone."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sslscale.data.batch import Batch
from sslscale.methods.method import Losses
from sslscale.methods.text_lines import LineMethod


class TextSupervisedMethod(LineMethod):
    """A recogniser."""

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        del drawn
        lines = batch["labeled"]
        return self.losses(self.read(*lines.views)[0], lines)
