"""What methods that read lines of text have in common: a recogniser, its loss, and that of unlabelled lines."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.data.transfer import to_device
from sslscale.losses import linear_rise
from sslscale.methods.method import AveragedMethod, Losses
from sslscale.nn.recognizer import AttentionHead, CTCHead, Recognizer, build_recognizer
from sslscale.settings.kinds import LabeledLines
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Bool, Float


class LineMethod(AveragedMethod):
    """A recogniser of the characters of an alphabet, and its average."""

    network: Recognizer
    average: Recognizer | None

    def __init__(self, settings: LabeledLines, model: ModelConfig, num_chars: int):
        super().__init__(settings, build_recognizer(model, num_chars))
        self.settings = settings

    def draw(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """The weight of the unlabelled loss by now."""
        ramp = getattr(self.settings, "ramp", 0.0)
        weight = getattr(self.settings, "unlabeled_weight", 0.0)
        weight *= linear_rise(self.step_info.progress, 0.0, ramp) if ramp else 1.0
        return {"weight": to_device(torch.tensor(weight), batch["labeled"].index.device)}

    def read(self, *views: Float[Tensor, "_ 3 h w"]) -> list[Float[Tensor, "_ times features"]]:
        """The columns of each view, seen as one batch."""
        sizes = [len(view) for view in views]
        return list(self.network.columns(torch.cat(views)).split(sizes))

    def losses(
        self,
        columns: Float[Tensor, "batch times features"],
        lines: Batch,
        weight: Float[Tensor, ""] | None = None,
        unlabeled: Float[Tensor, ""] | None = None,
        parts: Mapping[str, Float[Tensor, ""]] | None = None,
    ) -> Losses:
        """The loss of labelled lines, plus weight times the unlabelled one, with what the log shows of it."""
        tokens, head = lines.transcript, self.network.head
        lengths = (tokens > 0).sum(1)
        logits = head(columns, tokens).float()
        supervised = distributed.mean(head.loss(logits, tokens, lengths))
        total = supervised if unlabeled is None or weight is None else supervised + weight * unlabeled
        with torch.no_grad():
            read, found, _ = head.text(logits)
            longest = min(tokens.shape[1], read.shape[1])
            same = (read[:, :longest] == tokens[:, :longest]).all(1) & (found == lengths)
            blank = (logits.argmax(2) == 0).float().mean(1)  # or ends, of an attention decoder
        shown = {"loss": total, "labeled_loss": supervised, **(parts or {})}
        if unlabeled is not None:
            shown["unlabeled_loss"] = unlabeled
        shown |= {"exact": distributed.mean(same.float()), "blanks": distributed.mean(blank)}
        return Losses(total, {name: value.detach() for name, value in shown.items()})


def agreement(
    student: Float[Tensor, "batch times chars"], teacher: Float[Tensor, "batch times chars"]
) -> Float[Tensor, ""]:
    """Squares between two softmax, a mean over lines, columns and characters; no gradient reaches the second."""
    return distributed.mean((student.softmax(2) - teacher.detach().softmax(2)).square().flatten(1).mean(1))


def read_as(
    head: CTCHead | AttentionHead,
    student: Float[Tensor, "batch times features"],
    teacher: Float[Tensor, "batch steps chars"],
    threshold: float,
) -> tuple[Float[Tensor, ""], Bool[Tensor, " batch"]]:
    """The loss of what the head makes of the student's columns against what the teacher's logits say, 0 for lines of
    which it is not sure, the mean over all; and of which it is: the geometric mean of the probabilities along its path
    reaches the threshold, and it read any."""
    with torch.no_grad():
        tokens, lengths, probability = head.text(teacher)
        kept = (probability >= threshold) & (lengths > 0)
    return distributed.mean(head.loss(head(student, tokens).float(), tokens, lengths) * kept), kept
