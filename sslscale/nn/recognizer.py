"""A recogniser of lines of text: CRNN (Shi et al. 2015, arXiv:1507.05717), and its CTC decoding."""

from __future__ import annotations

from torch import Tensor, nn

from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float

HEIGHT = 32  # of the lines that the network takes


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


class Recognizer(nn.Module):
    """Convolutions, two bidirectional LSTMs, and the logits of each column: blank first, then the characters."""

    def __init__(self, width: float, num_chars: int):
        super().__init__()
        hidden = max(round(256 * width), 8)
        self.backbone = ConvolutionsOfLine(width)
        self.sequence = nn.LSTM(self.backbone.num_features, hidden, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, num_chars + 1)

    def forward(self, x: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch times chars"]:
        return self.head(self.sequence(self.backbone(x))[0])


def build_recognizer(model: ModelConfig, num_chars: int) -> Recognizer:
    """Build the network with first weights of torch's global generator."""
    return Recognizer(float(model.name.removeprefix("crnn_")), num_chars)


def columns(width: int) -> int:
    """How many columns a line of so many pixels has: the longest text that CTC can give it."""
    return width // 4 - 1
