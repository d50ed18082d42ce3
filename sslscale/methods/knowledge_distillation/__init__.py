"""Settings of knowledge distillation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import MethodSettings
from sslscale.settings.streams import StreamSpec


@dataclass(frozen=True, kw_only=True)
class KnowledgeDistillation(MethodSettings):
    """A student learns labels and a teacher's softened predictions (Hinton, Vinyals and Dean 2015, arXiv:1503.02531).

    The teacher is another network of the graph, which sees the student's view of each image, or its logits of every
    image, computed once. `virtual` needs none: it knows the class with probability `virtual_correct` and tells nothing
    more (Tf-KD's regularisation, Yuan et al. 2020, arXiv:1909.11723, section 4.2: temperature 20, alpha .1 to .95).
    """

    name: Literal["knowledge_distillation"] = "knowledge_distillation"  # pyright: ignore[reportIncompatibleVariableOverride]
    alpha: float = 0.9  # weight of the teacher; 1 - alpha that of the labels
    temperature: float = 4.0
    virtual: bool = False
    virtual_correct: float = 0.99
    ema: float = 0.0
    version: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        require(0 <= self.alpha <= 1, "alpha", "must lie between 0 and 1")
        require(self.temperature > 0, "temperature", "must be positive")
        require(0 < self.virtual_correct < 1, "virtual_correct", "must lie between 0 and 1")
        require(0 <= self.ema < 1, "ema", "must lie in [0, 1)")

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher must be given."""
        return not self.virtual

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        """Labelled images, with the teacher's logits if a stage computed them."""
        return (StreamSpec(name="labeled", source="labeled", fields=("label", "teacher_logits")),)
