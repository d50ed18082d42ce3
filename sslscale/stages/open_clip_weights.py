"""An image and a text tower from anywhere as a checkpoint of this root."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from sslscale.data.fingerprint import file_hash
from sslscale.errors import DataError
from sslscale.graph.artifacts import Checkpoint
from sslscale.graph.context import RunContext
from sslscale.graph.dag import cpu_only
from sslscale.graph.lookup import checkpoint_folder
from sslscale.settings.model import FILES, ImageConfig, ModelConfig, read_info
from sslscale.settings.text import PREFIX, ClipConfig, open_clip_config
from sslscale.storage.jsonio import digest

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's


@dataclass(frozen=True, kw_only=True)
class TowersConfig:
    """Where the towers come from."""

    source: ClipConfig
    version: int = field(default=1, init=False)


def content(config: TowersConfig, root: Path) -> str:
    """Identity of the files; raises DataError for what is not there or has no text tower."""
    source = config.source
    if source.model is not None:
        file = Path(source.checkpoint)
        if not file.is_file():
            raise DataError(f"{file}: there is no such file of weights")
        return digest(file_hash(file))
    folder = checkpoint_folder(root, source.checkpoint)
    if read_info(folder).text is None:
        raise DataError(f"{source.checkpoint}: has no text tower: its training must be by clip or siglip")
    return digest([file_hash(folder / name) for name in FILES])


@cpu_only
def open_towers(ctx: RunContext, config: TowersConfig) -> Checkpoint:
    """Write a checkpoint's two files again, or public weights as a checkpoint; raises DataError if they do not fit."""
    source = config.source
    if source.model is None:
        folder = checkpoint_folder(ctx.root, source.checkpoint)
        for name in FILES:
            shutil.copyfile(folder / name, ctx.path / name)
        return Checkpoint(path=str(ctx.path), num_parameters=read_info(ctx.path).num_parameters, step=0)
    from sslscale.nn.classifier import num_parameters
    from sslscale.train import checkpoint, public_weights

    model = ModelConfig(name=source.model)
    towers = public_weights.read_towers(Path(source.checkpoint), model)
    size = open_clip_config(source.model.removeprefix(PREFIX))["vision_cfg"].get("image_size", 224)
    image = ImageConfig(size=size, mean=_MEAN, std=_STD)
    checkpoint.save_model(ctx.path, towers, checkpoint.describe_model(towers, model, image, ()))
    return Checkpoint(path=str(ctx.path), num_parameters=num_parameters(towers), step=0)
