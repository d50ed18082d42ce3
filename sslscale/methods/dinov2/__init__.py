"""Settings of DINOv2, of which iBOT and DINOv3's Gram anchoring are options."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from sslscale.config import require
from sslscale.settings.method import MethodSettings, MultiCrop, without_patches
from sslscale.settings.model import ModelConfig


@dataclass(frozen=True, kw_only=True)
class DINOv2(MultiCrop):
    """DINOv2 (Oquab et al. 2023, arXiv:2304.07193): DINO, masked patches (iBOT, arXiv:2111.07832) and KoLeo, for ViTs
    alone. Published with AdamW, lr .004 * sqrt(batch / 1024), decay .04 to .4 (.2 for the largest).

    iBOT itself: `koleo: 0`, `centering: mean`, `shared_head: true`, `prototypes: 8192`, `momentum: .996`. DINOv3's Gram
    anchoring (Simeoni et al. 2025, arXiv:2508.10104): `gram: 2`, late in a long training whose dense features decline;
    the Gram teacher sees the same crops at the same size, where DINOv3's sees them at twice the size.
    """

    name: Literal["dinov2"] = "dinov2"  # pyright: ignore[reportIncompatibleVariableOverride]
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04  # where it begins
    final_teacher_temperature: float = 0.07
    warmup_epochs: float = 30.0  # until it is there
    momentum: float = 0.992  # of the teacher, where it begins; it rises to 1 by a cosine
    iterations: int = 3  # of Sinkhorn
    masked_images: float = 0.5  # share of the images that have masked patches
    masked_patches: tuple[float, float] = (0.1, 0.5)  # share of such an image's patches
    ibot: float = 1.0  # weight of the masked patches' loss
    koleo: float = 0.1
    prototypes: int = 65_536  # outputs of each head
    hidden: int = 2048
    bottleneck: int = 256
    norm: bool = False  # batch norm in the class token's head, as DINO's for ResNets: short trainings need it
    freeze_last: float = 1.0  # epochs
    centering: Literal["sinkhorn", "mean"] = field(default="sinkhorn", metadata={"new": True})  # mean: as DINO's
    center_momentum: float = field(default=0.9, metadata={"new": True})
    shared_head: bool = field(default=False, metadata={"new": True})  # of class tokens and patches
    gram: float = field(default=0.0, metadata={"new": True})  # weight of Gram anchoring
    gram_from: float = field(default=0.8, metadata={"new": True})  # share of the training after which it begins
    gram_every: int = field(default=0, metadata={"new": True})  # steps until the Gram teacher is renewed; 0: never
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(0 <= self.momentum < 1, "momentum", "must lie in [0, 1)")
        require(0 <= self.masked_images <= 1, "masked_images", "must lie between 0 and 1")
        low, high = self.masked_patches
        require(0 < low <= high < 1, "masked_patches", "must be two shares, low then high")
        require(self.ibot >= 0, "ibot", "must be 0 or more")
        require(self.koleo >= 0, "koleo", "must be 0 or more")
        require(self.warmup_epochs >= 0, "warmup_epochs", "must be 0 or more")
        require(self.freeze_last >= 0, "freeze_last", "must be 0 or more")
        require(self.student_temperature > 0, "student_temperature", "must be positive")
        require(self.teacher_temperature > 0, "teacher_temperature", "must be positive")
        require(self.final_teacher_temperature > 0, "final_teacher_temperature", "must be positive")
        require(self.iterations > 0, "iterations", "must be positive")
        require(self.prototypes > 0, "prototypes", "must be positive")
        require(self.hidden > 0, "hidden", "must be positive")
        require(self.bottleneck > 0, "bottleneck", "must be positive")
        require(0 <= self.center_momentum < 1, "center_momentum", "must lie in [0, 1)")
        require(self.gram >= 0, "gram", "must be 0 or more")
        require(0 <= self.gram_from < 1, "gram_from", "must lie in [0, 1)")
        require(self.gram_every >= 0, "gram_every", "must be 0 or more")

    def unsupported_model(self, model: ModelConfig, size: int) -> str | None:
        """Patches are masked, so there must be some."""
        del size
        return without_patches(self.name, model)

    def without_warmup(self) -> MethodSettings:
        """Without warm-ups and freezes, which the training before has had."""
        return replace(self, warmup_epochs=0.0, freeze_last=0.0)

    @property
    def accumulation_error(self) -> str:
        """Why gradients cannot be accumulated over parts of a batch."""
        return "it shares the prototypes out among the images of a batch"
