"""Settings of fine-tuning a checkpoint to judge it."""

from __future__ import annotations

from dataclasses import dataclass

from sslscale.config import require
from sslscale.methods.supervised import Supervised
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.train import OptimConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """SimCLR's fine-tuning (arXiv:2002.05709, appendix B.5): SGD with Nesterov momentum, lr .05 * batch / 256, no
    weight decay, no warm-up, random crops and flips; 60 epochs with 1 % of the labels, 30 with more.

    The batch is halved until the labelled images hold four of them. `layer_decay` is for ViTs.
    """

    epochs: float | None = None
    batch_size: int = 256
    lr: float = 0.05  # for a batch of 256
    weight_decay: float = 0.0
    layer_decay: float = 1.0
    label_smoothing: float = 0.0
    augment: AugmentConfig = AugmentConfig(crop="resized", flip=True)

    def __post_init__(self) -> None:
        require(self.epochs is None or self.epochs > 0, "epochs", "must be positive")
        require(self.batch_size > 0, "batch_size", "must be positive")
        require(self.lr > 0, "lr", "must be positive")

    def training(
        self, model: ModelConfig, image: ImageConfig, fraction: float, num_labels: int, seed: int
    ) -> TrainConfig:
        """The training on a fraction of so many labelled images."""
        batch = self.batch_size
        while batch > 8 and 4 * batch > fraction * num_labels:
            batch //= 2
        return TrainConfig(
            method=Supervised(label_smoothing=self.label_smoothing),
            model=model,
            image=image,
            augment=self.augment,
            optim=OptimConfig(lr=self.lr * batch / 256, weight_decay=self.weight_decay, layer_decay=self.layer_decay),
            batch_size=batch,
            epochs=self.epochs or (60 if fraction <= 0.01 else 30),
            label_fraction=fraction,
            seed=seed,
        )
