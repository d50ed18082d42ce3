"""Mean Teacher on CTC's columns."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sslscale.data.batch import Batch
from sslscale.methods.method import Losses
from sslscale.methods.text_lines import LineMethod, agreement
from sslscale.methods.text_mean_teacher import TextMeanTeacher


class TextMeanTeacherMethod(LineMethod):
    """A recogniser, and the average of its weights as its teacher."""

    settings: TextMeanTeacher
    average_sees_training_mode = True

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        lines, (first, second) = batch["labeled"], batch["unlabeled"].views
        assert self.average is not None
        columns, unlabeled = self.read(lines.views[0], first)
        student = self.network.head(torch.cat([columns, unlabeled])).float()
        with torch.no_grad():
            teacher = self.average(torch.cat([lines.views[0], second])).float()
        own = agreement(student, teacher)
        return self.losses(columns, lines, drawn["weight"], own)

    def momentum(self, step: int, progress: float) -> float:
        """min(1 - 1 / (step + 1), ema): of few steps the true mean."""
        del progress
        return min(1 - 1 / (step + 1), self.settings.ema)
