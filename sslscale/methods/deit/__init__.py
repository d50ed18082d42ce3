"""Settings of DeiT."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import MethodSettings
from sslscale.settings.model import ModelConfig
from sslscale.settings.streams import StreamSpec


@dataclass(frozen=True, kw_only=True)
class DeiT(MethodSettings):
    """Distillation through a token of its own (Touvron et al. 2021, arXiv:2012.12877, section 4): the class token
    learns the label, the distillation token the teacher. The model must be a ViT with `distillation_token: true`.
    """

    name: Literal["deit"] = "deit"  # pyright: ignore[reportIncompatibleVariableOverride]
    mode: Literal["hard", "soft"] = "hard"
    weight: float | None = None  # of the teacher: hard .5 (eq. 3), soft lambda .1 (eq. 2)
    temperature: float = 3.0  # of soft distillation
    label_smoothing: float = 0.1
    ema: float = 0.0
    version: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        require(self.weight is None or 0 <= self.weight <= 1, "weight", "must lie between 0 and 1")
        require(self.temperature > 0, "temperature", "must be positive")
        require(0 <= self.label_smoothing < 1, "label_smoothing", "must lie in [0, 1)")
        require(0 <= self.ema < 1, "ema", "must lie in [0, 1)")

    def unsupported_model(self, model: ModelConfig, size: int) -> str | None:
        """DeiT's second token must be there."""
        del size
        return None if model.distillation_token else f"{model.name} needs distillation_token: true for deit"

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher must be given."""
        return True

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        """Labelled images, with the teacher's logits if a stage computed them."""
        return (StreamSpec(name="labeled", source="labeled", fields=("label", "teacher_logits")),)
