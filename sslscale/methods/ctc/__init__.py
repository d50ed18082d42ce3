"""Settings of learning to read from transcripts alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.settings.method import LabeledLines


@dataclass(frozen=True, kw_only=True)
class CTC(LabeledLines):
    """A recogniser trained by connectionist temporal classification (Graves et al. 2006) on transcribed lines."""

    name: Literal["ctc"] = "ctc"  # pyright: ignore[reportIncompatibleVariableOverride]
    version: int = field(default=1, init=False)
