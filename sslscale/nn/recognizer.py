"""Recognisers of lines of text: CRNN (Shi et al. 2015, arXiv:1507.05717) with CTC, or with an attention decoder."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale.losses import in_float32
from sslscale.nn.ctc import best_path, ctc_loss
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float, Int

HEIGHT = 32  # of the lines that the network takes
END = 0  # of the attention decoder: behind the last character, and before the first
Text = tuple[Int[Tensor, "batch longest"], Int[Tensor, " batch"], Float[Tensor, " batch"]]


class ConvolutionsOfLine(nn.Module):
    """The seven convolutions of CRNN: a line of 32 x width pixels becomes width / 4 - 1 columns."""

    def __init__(self, width: float):
        super().__init__()
        channels = [max(round(c * width), 1) for c in (64, 128, 256, 256, 512, 512, 512)]
        layers: list[nn.Module] = []
        before = 3
        for number, own in enumerate(channels):
            normed = number in (4, 5)
            size, padding = (2, 0) if number == 6 else (3, 1)
            layers.append(nn.Conv2d(before, own, size, padding=padding, bias=not normed))
            layers += [nn.BatchNorm2d(own), nn.ReLU()] if normed else [nn.ReLU()]
            pool = {0: (2, 2), 1: (2, 2), 3: (2, 1), 5: (2, 1)}.get(number)
            if pool is not None:
                layers.append(nn.MaxPool2d(pool))
            before = own
        self.layers = nn.Sequential(*layers)
        self.num_features = before

    def forward(self, x: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch times features"]:
        return self.layers(x).squeeze(2).transpose(1, 2)


class CTCHead(nn.Linear):
    """The logits of each column: blank first, then the characters."""

    def forward(
        self, input: Float[Tensor, "batch times features"], tokens: Int[Tensor, "batch longest"] | None = None
    ) -> Float[Tensor, "batch times chars"]:
        """Of the columns alone, whatever the text."""
        del tokens
        return super().forward(input)

    def loss(
        self,
        logits: Float[Tensor, "batch times chars"],
        tokens: Int[Tensor, "batch longest"],
        lengths: Int[Tensor, " batch"],
    ) -> Float[Tensor, " batch"]:
        """-log p(text) / length of each line."""
        return ctc_loss(logits, tokens, lengths)

    def text(self, logits: Float[Tensor, "batch times chars"]) -> Text:
        """What is read: tokens padded with 0, lengths, and the geometric mean of the columns' probabilities."""
        return best_path(logits)


class AttentionHead(nn.Module):
    """An LSTM that writes character after character, and looks at the columns by additive attention.

    The decoder of Baek et al. 2019 (arXiv:1904.01906), without a bound on the length but the number of columns. Class 0
    ends the text, and stands before the first character.
    """

    def __init__(self, num_features: int, hidden: int, num_chars: int):
        super().__init__()
        self.hidden = hidden
        self.key = nn.Linear(num_features, hidden, bias=False)
        self.query = nn.Linear(hidden, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)
        self.cell = nn.LSTMCell(num_features + num_chars + 1, hidden)
        self.char = nn.Linear(hidden, num_chars + 1)

    def forward(
        self, columns: Float[Tensor, "batch times features"], tokens: Int[Tensor, "batch longest"] | None = None
    ) -> Float[Tensor, "batch steps chars"]:
        """The logits of each step: given `tokens` those of each character after the true ones before it, longest + 1
        steps; else after those that were most probable, one step for each column."""
        columns = columns.float()
        keys = self.key(columns)
        steps = columns.shape[1] if tokens is None else tokens.shape[1] + 1
        h, c = columns.new_zeros(2, len(columns), self.hidden).unbind(0)
        before = torch.full((len(columns),), END, device=columns.device)
        classes = torch.arange(self.char.out_features, device=columns.device)
        result = []
        for step in range(steps):
            weights = self.score(torch.tanh(keys + self.query(h)[:, None])).softmax(1)
            context = (weights * columns).sum(1)
            written = (before[:, None] == classes).to(context.dtype)
            h, c = self.cell(torch.cat([context, written], 1), (h, c))
            result.append(self.char(h))
            if step + 1 < steps:
                before = result[-1].argmax(1) if tokens is None else tokens[:, step].long()
        return torch.stack(result, 1)

    @in_float32
    def loss(
        self,
        logits: Float[Tensor, "batch steps chars"],
        tokens: Int[Tensor, "batch longest"],
        lengths: Int[Tensor, " batch"],
    ) -> Float[Tensor, " batch"]:
        """The mean cross-entropy of each line's characters and of its end."""
        wanted = F.pad(tokens.long(), (0, 1), value=END)
        each = F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")
        counts = torch.arange(each.shape[1], device=each.device) <= lengths[:, None]
        return (each * counts).sum(1) / (lengths + 1)

    def text(self, logits: Float[Tensor, "batch steps chars"]) -> Text:
        """What is read up to the first end: tokens padded with 0, lengths, and the geometric mean of the probabilities
        of the characters and of the end."""
        probability, path = logits.float().softmax(2).max(2)
        ended = (path == END).cumsum(1) > 0
        lengths = (~ended).sum(1)
        counts = torch.arange(path.shape[1], device=path.device) <= lengths[:, None]
        mean = (probability.log() * counts).sum(1) / counts.sum(1)
        return path.masked_fill(ended, END), lengths, mean.exp()


class Recognizer(nn.Module):
    """Convolutions, two bidirectional LSTMs, and a head that turns columns into text."""

    def __init__(self, width: float, num_chars: int, *, attention: bool = False):
        super().__init__()
        hidden = max(round(256 * width), 8)
        self.decoder: Literal["ctc", "attention"] = "attention" if attention else "ctc"
        self.backbone = ConvolutionsOfLine(width)
        self.sequence = nn.LSTM(self.backbone.num_features, hidden, 2, batch_first=True, bidirectional=True)
        self.head = AttentionHead(2 * hidden, hidden, num_chars) if attention else CTCHead(2 * hidden, num_chars + 1)

    def columns(self, x: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch times features"]:
        """What is seen in each column of the lines."""
        return self.sequence(self.backbone(x))[0]

    def forward(self, x: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch steps chars"]:
        return self.head(self.columns(x))


def build_recognizer(model: ModelConfig, num_chars: int) -> Recognizer:
    """Build the network with first weights of torch's global generator."""
    return Recognizer(float(model.name.rpartition("_")[2]), num_chars, attention=reads_by_attention(model.name))


def reads_by_attention(name: str) -> bool:
    """Whether a network of this name has an attention decoder."""
    return name.startswith("crnn_attention_")


def columns(width: int) -> int:
    """How many columns a line of so many pixels has: the longest text that CTC can give it."""
    return width // 4 - 1
