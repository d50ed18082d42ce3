"""Settings of a teacher that is there already."""

from __future__ import annotations

from dataclasses import dataclass, field

from sslscale.config import require
from sslscale.settings.model import ImageConfig


@dataclass(frozen=True, kw_only=True)
class TimmConfig:
    """A model of timm with its classifier, and what it is fed.

    `weights` is a file of timm's making (.safetensors, or .pth, of which tensors alone are read); without it the ones
    that timm publishes under that name are downloaded. `classes` is a text file with a class in each line, in the order
    of the model's outputs; without it they are ImageNet's where the data's classes are named so (n01440764, ...), else
    the data's own.
    """

    name: str
    image: ImageConfig
    weights: str | None = field(default=None, metadata={"identity": False})
    classes: str | None = field(default=None, metadata={"identity": False})
    version: int = field(default=1, init=False)


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """An existing network to learn from: the folder (or URL) of a `checkpoint`, or the name of a `timm` model.

    `weights` and `classes` describe a timm model (see TimmConfig). `image` is the input of the teacher; by default the
    student's.
    """

    checkpoint: str | None = None
    timm: str | None = None
    weights: str | None = None
    classes: str | None = None
    image: ImageConfig | None = None

    def __post_init__(self) -> None:
        require((self.checkpoint is None) != (self.timm is None), "checkpoint", "give this or timm, and not both")
        for name in ("weights", "classes", "image"):
            require(self.timm is not None or getattr(self, name) is None, name, "is for timm alone")
