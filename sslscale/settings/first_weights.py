"""Settings of the weights that a training begins with."""

from __future__ import annotations

from dataclasses import dataclass, field

from sslscale.config import require


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """The weights that a training begins with, of a network that is there already: {timm: NAME, weights: FILE}, or
    {checkpoint: DIR or FILE}.

    `checkpoint` is a folder that sslscale wrote, the key of a result in the same root, or a file of weights under the
    names of sslscale, timm or torchvision (.safetensors or .pth; of pickles, tensors alone are read). A file for a
    model `open_clip:NAME` is of both its towers, under open_clip's names. `timm` is a model
    of timm; without a file of `weights`, the ones that timm publishes under that name are downloaded. The training's
    `model` must be the same network: `timm:NAME`, or a resnet_ or vit_ of the same shape. The backbone is taken, into
    teachers and averages too; a classifier is taken if it knows the same classes, else it begins anew.
    """

    checkpoint: str | None = field(default=None, metadata={"identity": False})
    timm: str | None = None
    weights: str | None = field(default=None, metadata={"identity": False})

    def __post_init__(self) -> None:
        require((self.checkpoint is None) != (self.timm is None), "checkpoint", "give this or timm, and not both")
        require(self.timm is not None or self.weights is None, "weights", "is for timm alone; checkpoint takes a file")
