"""Which engine trains: how weights, gradients and optimiser state are distributed over the workers."""

from __future__ import annotations

import torch
import torch.distributed as dist

from sslscale import distributed
from sslscale.graph.resources import Resources
from sslscale.methods.method import Method
from sslscale.settings.train import TrainConfig
from sslscale.train.blocks import checkpoint_activations
from sslscale.train.engine import Engine


def build_engine(
    method: Method, config: TrainConfig, num_steps: int, device: torch.device, resources: Resources
) -> Engine:
    """The engine that `resources.strategy` names; raises ConfigError for what it cannot do.

    A sharding engine needs a process group, also alone: one worker makes its own.
    """
    if resources.checkpoint_activations:
        checkpoint_activations(method)
    if resources.strategy == "ddp":
        return Engine(method, config, num_steps, device)
    if not dist.is_initialized():
        kind = distributed.backend(cuda=device.type == "cuda", host_too=resources.offload)
        store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(kind, store=store, rank=0, world_size=1)
    if resources.strategy == "fsdp":
        from sslscale.train.fsdp import FSDPEngine

        return FSDPEngine(
            method, config, num_steps, device, offload=resources.offload, parts=resources.sharded_checkpoints
        )
    from sslscale.train.zero import ZeroEngine

    stage = int(resources.strategy.removeprefix("zero"))
    return ZeroEngine(method, config, num_steps, device, stage=stage, offload=resources.offload)
