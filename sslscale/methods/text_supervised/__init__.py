"""Settings of learning to read from transcripts alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.settings.kinds import LabeledLines


@dataclass(frozen=True, kw_only=True)
class TextSupervised(LabeledLines):
    """A recogniser trained on transcribed lines: by connectionist temporal classification (Graves et al. 2006), or with
    `crnn_attention_WIDTH` by the cross-entropy of each character (Baek et al. 2019, arXiv:1904.01906)."""

    name: Literal["text_supervised"] = "text_supervised"  # pyright: ignore[reportIncompatibleVariableOverride]
    version: int = field(default=1, init=False)
