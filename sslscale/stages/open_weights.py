"""The weights that a training begins with, as a checkpoint of this root."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from sslscale.data.fingerprint import file_hash
from sslscale.errors import ConfigError, DataError
from sslscale.graph.artifacts import Checkpoint
from sslscale.graph.context import RunContext
from sslscale.graph.dag import cpu_only
from sslscale.graph.lookup import checkpoint_folder
from sslscale.settings.first_weights import InitConfig
from sslscale.settings.model import FILES, ImageConfig, ModelConfig, read_info
from sslscale.settings.text import PREFIX
from sslscale.storage.jsonio import digest


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """Where the weights come from, and the network that they are for."""

    source: InitConfig
    model: ModelConfig
    image: ImageConfig
    version: int = field(default=1, init=False)


def content(config: WeightsConfig, root: Path) -> str:
    """Identity of the files; raises DataError for one that is not there, ConfigError for another network's."""
    source = config.source
    if source.checkpoint is None:
        if source.weights is None:
            return ""  # what timm publishes under a name does not change
        return digest(_hash(Path(source.weights)))
    file = Path(source.checkpoint)
    if file.is_file():
        return digest(_hash(file))
    folder = checkpoint_folder(root, source.checkpoint)
    own = read_info(folder).model.name
    if own != config.model.name:
        raise ConfigError(
            f"init.checkpoint: {source.checkpoint} is a {own}: the model of this training must be one too"
        )
    return digest([file_hash(folder / name) for name in FILES])


def _hash(file: Path) -> str:
    if not file.is_file():
        raise DataError(f"{file}: there is no such file of weights")
    return file_hash(file)


@cpu_only
def open_weights(ctx: RunContext, config: WeightsConfig) -> Checkpoint:
    """Write a checkpoint's two files again, or public weights: a backbone without a classifier, or open_clip's two
    towers.

    Raises ConfigError and DataError for weights that are not of the training's network.
    """
    import logging

    from sslscale.nn.classifier import num_parameters
    from sslscale.train import checkpoint, public_weights

    source, log = config.source, logging.getLogger(__name__)
    if source.checkpoint is not None and not Path(source.checkpoint).is_file():
        folder = checkpoint_folder(ctx.root, source.checkpoint)
        info = read_info(folder)
        if info.image.channels == config.image.channels:
            for name in FILES:
                shutil.copyfile(folder / name, ctx.path / name)
        else:
            info = public_weights.for_channels(folder, ctx.path, config.image)
        trained_on = info.image.mean, info.image.std
        parameters = info.num_parameters
    else:
        file = source.checkpoint or source.weights
        if file is not None and config.model.name.startswith(PREFIX):
            network = public_weights.read_towers(Path(file), config.model)
        elif file is not None:
            network = public_weights.read_backbone(Path(file), config.model)
        else:
            assert source.timm is not None
            network = public_weights.take_up(public_weights.timm_backbone(source.timm), config.model)
        info = checkpoint.describe_model(network, config.model, config.image, ())
        checkpoint.save_model(ctx.path, network, info)
        parameters = num_parameters(network)
        trained_on = public_weights.mean_and_std(source.timm) if source.timm is not None else None
    if trained_on is not None and trained_on != (config.image.mean, config.image.std):
        log.warning(
            "%s: these weights were trained with image.mean %s and std %s: set them so, or the first features are off",
            ctx.name,
            list(trained_on[0]),
            list(trained_on[1]),
        )
    return Checkpoint(path=str(ctx.path), num_parameters=parameters, step=0)
