"""What the training loop knows of a method. The only base class of the project."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from sslscale.config import Recipe
from sslscale.data.loader import Batch
from sslscale.recipes.model import ModelConfig

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Losses:
    """What is minimised, and its parts for the log (detached, under their own names)."""

    total: Float[Tensor, ""]
    parts: Mapping[str, Float[Tensor, ""]]
    embedding: Float[Tensor, "batch dim"] | None = None  # of this worker's images, detached: shows a collapse


class Method(nn.Module):
    """Owns its networks. `forward` turns the batches of its streams into losses; it is called through the engine.

    Subclasses are made as `cls(recipe, model, num_outputs)`, the number of classes of what they learn or the
    width of its features, and name the network that is worth keeping.
    """

    constant_lr: tuple[str, ...] = ()  # prefixes of the weights whose learning rate follows no schedule

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        raise TypeError(f"{type(self).__name__} has no forward")

    def prepare(self, num_images: int) -> None:
        """Make what depends on the number of images of the method's first stream; called once, before any step."""

    def before_step(self, step: int, epoch: float) -> None:
        """Hear what time it is: steps done, and passes over the images of the first stream."""

    def before_update(self) -> None:
        """Drop the gradients of what must stay as it is in this step; called after backward."""

    def after_step(self, step: int, progress: float) -> None:
        """Update what is not learned by gradient (teachers, queues); `progress` runs from 0 to 1."""

    @property
    def result(self) -> nn.Module:
        """The network that the checkpoint holds."""
        raise TypeError(f"{type(self).__name__} names no result")


def build_method(recipe: Recipe, model: ModelConfig, num_outputs: int) -> Method:
    """Make the method whose code stands in methods/NAME.py for the recipe of recipes/NAME.py."""
    name = type(recipe).__module__.rpartition(".")[2]
    module = importlib.import_module(f"sslscale.methods.{name}")
    (cls,) = [c for c in vars(module).values() if isinstance(c, type) and Method in c.__bases__]
    return cls(recipe, model, num_outputs)
