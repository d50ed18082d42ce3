"""A classifier of images made of class names alone, by an image and a text tower that share a space."""

from __future__ import annotations

from sslscale.errors import ConfigError, DataError
from sslscale.graph.artifacts import Checkpoint, Dataset
from sslscale.graph.context import RunContext
from sslscale.graph.dag import cpu_only
from sslscale.settings.text import ZeroShotConfig


@cpu_only
def zero_shot(ctx: RunContext, config: ZeroShotConfig, *, model: Checkpoint, data: Dataset) -> Checkpoint:
    """Write the classifier as a checkpoint, which every stage that takes a classifier takes.

    Its classes are those of the settings, or of the data. Raises ConfigError for names that do not fit them, DataError
    for a checkpoint without a text tower.
    """
    import torch

    from sslscale.evaluate.zero_shot import class_embeddings, sentences
    from sslscale.nn.classifier import num_parameters
    from sslscale.nn.towers import classifier_of
    from sslscale.settings.model import read_info
    from sslscale.train import checkpoint
    from sslscale.train.engine import best_device

    torch.set_num_threads(ctx.threads)
    classes = config.classes or data.classes
    if not classes:
        raise DataError(f"{ctx.name}: the data has no classes: name them in classes")
    missing = [name for name in data.classes if name not in classes]
    if missing:
        raise ConfigError(f"{ctx.name}: classes: the data's class {missing[0]!r} is not among them")
    info, towers = read_info(model.dir), checkpoint.load_towers(model.dir)
    device = best_device(ctx.resources)
    embeddings = class_embeddings(towers.to(device), sentences(config, classes), device).cpu()
    network = classifier_of(towers.cpu(), embeddings, towers.log_scale.detach().exp())
    checkpoint.save_model(ctx.path, network, checkpoint.describe_model(network, info.model, info.image, classes))
    return Checkpoint(path=str(ctx.path), num_parameters=num_parameters(network), step=0)
