"""A model of timm as a checkpoint of this root."""

from __future__ import annotations

from pathlib import Path

from sslscale.data.fingerprint import file_hash
from sslscale.errors import DataError
from sslscale.graph.artifacts import Checkpoint, Dataset
from sslscale.graph.context import RunContext
from sslscale.settings.teacher import TimmConfig
from sslscale.storage.jsonio import digest


def content(config: TimmConfig, root: Path) -> str:
    """Identity of the files that the settings name; raises DataError for one that is not there."""
    del root
    files = [config.weights, config.classes]
    for name in files:
        if name is not None and not Path(name).is_file():
            raise DataError(f"{name}: there is no such file, which the teacher timm:{config.name} is made from")
    return digest([name and file_hash(Path(name)) for name in files])


def open_timm(ctx: RunContext, config: TimmConfig, *, data: Dataset) -> Checkpoint:
    """Write the model as a classifier of the data's classes; raises ConfigError and DataError as `from_timm` does."""
    from sslscale.nn.classifier import num_parameters
    from sslscale.train import checkpoint
    from sslscale.train.from_timm import from_timm

    network, model = from_timm(config, data.classes)
    info = checkpoint.describe_model(network, model, config.image, data.classes)
    checkpoint.save_model(ctx.path, network, info)
    return Checkpoint(path=str(ctx.path), num_parameters=num_parameters(network), step=0)
