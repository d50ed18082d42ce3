"""Self-supervised and semi-supervised learning of images at scale.

In Python, `load` opens a trained network:

    model = sslscale.load("runs/artifacts/train/KEY")
    model.features(["a.jpg", "folder/"]), model.predict("a.jpg", top=5)

`method` makes a method's loss, to be called in a training loop of one's own.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sslscale.evaluate.model import Model
    from sslscale.methods.method import Method


def load(name: str | PathLike, *, root: str | PathLike = "runs") -> Model:
    """Open a trained network: the folder of a checkpoint, or a key, the beginning of one, a stage's name or `latest`,
    looked up in `root`.

    Raises ConfigError if there is no such checkpoint, DataError if it is damaged.
    """
    from pathlib import Path

    from sslscale.evaluate.model import Model
    from sslscale.graph.lookup import find_checkpoint

    return Model(find_checkpoint(Path(root), str(name)))


def method(name: str, *, model: str, classes: int = 0, channels: int = 3, **settings: Any) -> Method:
    """A method with its networks, as a torch module: `method(...)({"images": Batch(views, index)})` gives its losses.

    `name` is one of `sslscale methods`, or a file or module of one's own; `model` a network's name, for images
    of so many `channels`; `settings` are the method's own. Raises ConfigError for a name that there is not, ValueError
    for a value out of range.
    """
    from sslscale.methods.method import build_method
    from sslscale.settings.method import find
    from sslscale.settings.model import ModelConfig

    chosen: Any = find(name)
    made = chosen(**settings)
    if channels != 3 and made.rgb_only:
        raise ValueError(f"channels: {name} takes RGB images alone")
    return build_method(made, ModelConfig(name=model, channels=channels), classes)
