"""Where and how a stage runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Strategy = Literal["ddp", "fsdp", "zero0", "zero1", "zero2", "zero3"]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Where and how a stage runs; never part of its identity. null means all there is, shared among the workers.

    With `min_workers`, training continues on fewer workers when nodes are lost, and on more when they come back.
    `gpus_per_worker`: null is one GPU each if there are any; 0 computes on CPUs. A cluster that has no GPU yet and
    whose autoscaler may bring some asks for a number. On a cluster, a stage that does not
    fit the current nodes waits `wait_for_nodes_s` seconds for new ones. A training worker that waits for the others
    longer than `timeout_s` seconds fails: the log shows where each of them stood, and all start again from the last
    checkpoint. `cache_bytes` bounds the decoded images, and `shard_bytes` the shards fetched from stores, that a node
    keeps on its own disk (SSLSCALE_SCRATCH) for all runs of a user; null is half of what is free there, and
    cache_bytes: 0 decodes at each access. `strategy` is how training workers share the weights: ddp, fsdp, or
    DeepSpeed's ZeRO (optimiser state 1, gradients 2, weights 3). `offload` keeps fsdp's and ZeRO's shards in host
    memory; `checkpoint_activations` recomputes activations instead of keeping them; `sharded_checkpoints` lets each
    fsdp worker write its own shard of a checkpoint.
    """

    num_workers: int = 1
    min_workers: int | None = None
    cpus_per_worker: int | None = None
    gpus_per_worker: float | None = None
    max_failures: int = 3
    wait_for_nodes_s: float = 900
    timeout_s: int = 1800
    cache_bytes: int | None = None
    shard_bytes: int | None = None
    strategy: Strategy = "ddp"
    offload: bool = False
    checkpoint_activations: bool = False
    sharded_checkpoints: bool = False

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ValueError(f"num_workers: must be 1 or more, not {self.num_workers}")
        if self.min_workers is not None and not 1 <= self.min_workers <= self.num_workers:
            raise ValueError(f"min_workers: must lie between 1 and num_workers, not be {self.min_workers}")
        if self.max_failures < 0:
            raise ValueError(f"max_failures: must be 0 or more, not {self.max_failures}")
        if self.gpus_per_worker is not None and self.gpus_per_worker < 0:
            raise ValueError(f"gpus_per_worker: must be 0 or more, not {self.gpus_per_worker:g}")
        if self.cpus_per_worker is not None and self.cpus_per_worker < 1:
            raise ValueError(f"cpus_per_worker: must be 1 or more, not {self.cpus_per_worker}")
        if self.wait_for_nodes_s < 0:
            raise ValueError(f"wait_for_nodes_s: must be 0 or more, not {self.wait_for_nodes_s:g}")
        if self.timeout_s < 1:
            raise ValueError(f"timeout_s: must be 1 or more, not {self.timeout_s}")
        for name in ("cache_bytes", "shard_bytes"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name}: must be 0 or more, not {getattr(self, name)}")
        if self.sharded_checkpoints and self.strategy != "fsdp":
            raise ValueError(f"sharded_checkpoints: fsdp writes them, {self.strategy} does not")
        if self.offload and self.strategy in ("ddp", "zero0"):
            raise ValueError(f"offload: {self.strategy} keeps everything on its device; choose fsdp or zero1 to zero3")
