"""Connectionist temporal classification (Graves et al. 2006) without a wait for the device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale.losses import in_float32
from sslscale.shapes import Float, Int

NATIVE = ("cpu",)  # devices on which torch's own loss waits for nothing
_NEVER = -1e30  # the logarithm of a probability of 0, with finite gradients
BLANK = 0


@in_float32
def ctc_loss(
    logits: Float[Tensor, "batch times chars"], tokens: Int[Tensor, "batch longest"], lengths: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """-log p(text | logits) / length of each line, 0 where the columns are too few for its text.

    Class 0 is the blank; `tokens` are padded with anything behind their lengths. On a CPU this is torch's own loss; on
    a GPU that would wait for the lengths, and the sum over all alignments is taken here, column by column.
    """
    log_probs = F.log_softmax(logits, 2)
    if logits.device.type in NATIVE:
        columns = torch.full((len(logits),), logits.shape[1])
        total = F.ctc_loss(
            log_probs.transpose(0, 1), tokens, columns, lengths, BLANK, reduction="none", zero_infinity=True
        )
    else:
        total = ctc_by_columns(log_probs, tokens, lengths)
    return total / lengths.clamp(min=1)


def ctc_by_columns(
    log_probs: Float[Tensor, "batch times chars"], tokens: Int[Tensor, "batch longest"], lengths: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """-log p(text) by the forward variables of equation 6, of fixed shapes whatever the lengths."""
    batch, times, _ = log_probs.shape
    states = 2 * tokens.shape[1] + 1
    labels = tokens.new_full((batch, states), BLANK)
    labels[:, 1::2] = tokens
    skips = labels.new_zeros((batch, states), dtype=torch.bool)  # whether a blank may be left out before a state
    skips[:, 2:] = (labels[:, 2:] != BLANK) & (labels[:, 2:] != labels[:, :-2])
    emitted = log_probs.gather(2, labels[:, None].expand(-1, times, -1))
    first = torch.arange(states, device=log_probs.device) < 2
    alpha = emitted[:, 0].masked_fill(~first, _NEVER)
    for time in range(1, times):
        one, two = F.pad(alpha, (1, 0), value=_NEVER)[:, :-1], F.pad(alpha, (2, 0), value=_NEVER)[:, :-2]
        reached = torch.stack([alpha, one, two.masked_fill(~skips, _NEVER)], 2)
        alpha = reached.logsumexp(2) + emitted[:, time]
    last = 2 * lengths[:, None]
    ends = torch.cat([alpha.gather(1, last), alpha.gather(1, (last - 1).clamp(min=0))], 1)
    ends = ends.masked_fill((torch.arange(2, device=ends.device) == 1) & (lengths[:, None] == 0), _NEVER)
    total = -ends.logsumexp(1)
    return total.masked_fill(total > -_NEVER / 10, 0.0)


def best_path(
    logits: Float[Tensor, "batch times chars"],
) -> tuple[Int[Tensor, "batch times"], Int[Tensor, " batch"], Float[Tensor, " batch"]]:
    """The text of the most probable class of each column, repeats and blanks left out: tokens padded with 0, lengths,
    and the geometric mean of the probabilities along the path."""
    probability, path = logits.float().softmax(2).max(2)
    before = F.pad(path, (1, 0), value=BLANK)[:, :-1]
    kept = (path != BLANK) & (path != before)
    place = kept.cumsum(1) - 1
    end = path.shape[1]
    place = torch.where(kept, place, end)  # what is left out goes behind the end
    tokens = torch.zeros(len(path), end + 1, dtype=path.dtype, device=path.device).scatter(1, place, path)[:, :end]
    return tokens, kept.sum(1), probability.log().mean(1).exp()
