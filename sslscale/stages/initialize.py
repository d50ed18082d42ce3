"""A network with its first weights: what pre-training is compared with."""

from __future__ import annotations

from sslscale.graph.artifacts import Checkpoint, Dataset
from sslscale.graph.context import RunContext
from sslscale.graph.dag import cpu_only
from sslscale.settings.train import TrainConfig


@cpu_only
def initialize(ctx: RunContext, config: TrainConfig, *, data: Dataset) -> Checkpoint:
    """Write the very network that training by `config` begins with, untrained."""
    import torch

    from sslscale.methods.method import build_method
    from sslscale.nn.classifier import num_parameters
    from sslscale.train import checkpoint

    torch.manual_seed(config.seed)
    network = build_method(config.method, config.model, len(data.classes)).result
    info = checkpoint.describe_model(network, config.model, config.image, data.classes)
    checkpoint.save_model(ctx.path, network, info)
    return Checkpoint(path=str(ctx.path), num_parameters=num_parameters(network), step=0)
