"""Settings of the Pi-model on lines of text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.settings.kinds import ComparedColumns


@dataclass(frozen=True, kw_only=True)
class TextPiModel(ComparedColumns):
    """Pi-model (arXiv:1610.02242) on CTC's columns: two views of an unlabelled line shall be read alike.

    Squares between the softmax, a mean over columns and characters. Leave geometry out of the augmentation.
    """

    name: Literal["text_pi_model"] = "text_pi_model"  # pyright: ignore[reportIncompatibleVariableOverride]
    version: int = field(default=1, init=False)
