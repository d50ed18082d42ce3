"""Training workers of a stage, on Ray, and what all worker processes share."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from sslscale.errors import ConfigError, UserError
from sslscale.graph.context import RunContext
from sslscale.graph.stage_warnings import collect_warnings
from sslscale.storage import mirror

T = TypeVar("T")
W = TypeVar("W")
log = logging.getLogger(__name__)


def train_workers(loop: Callable[[RunContext, W], T], work: W, ctx: RunContext) -> T:
    """Call `loop(ctx, work)` on `num_workers` training workers with a process group; returns the main one's result.

    One worker is Ray Train's local mode, in this process. A worker that dies makes all of them start again, up to
    `max_failures` times; the loop goes on from its own checkpoints. An error that the user must mend, such as a damaged
    shard, is raised at once.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    from sslscale import distributed

    resources = ctx.resources
    if ctx.store and resources.sharded_checkpoints:
        raise ConfigError(
            f"{ctx.name}: sharded_checkpoints: workers write their parts into one folder, which a root in a store is "
            "not: leave it out, or take a --root that all nodes mount"
        )
    most = resources.num_workers
    alone, elastic = most == 1, resources.min_workers not in (None, most)
    gpus = 0.0
    if not alone:
        import ray

        gpus = gpus_per_worker(resources.gpus_per_worker, int(ray.cluster_resources().get("GPU", 0)))
        if 0 < gpus < 1:
            raise ConfigError(
                f"{ctx.name}: gpus_per_worker {gpus:g}: workers that train together need a whole GPU each, or 0"
            )
    failures = 0
    while True:
        trainer = TorchTrainer(
            _TrainLoop(loop, ctx, alone),
            train_loop_config={"work": work},
            torch_config=_group(distributed.backend(cuda=gpus > 0, host_too=resources.offload), ctx),
            scaling_config=ScalingConfig(
                num_workers=0 if alone else (resources.min_workers or most, most) if elastic else most,
                use_gpu=gpus > 0,
                resources_per_worker=None if alone else {"CPU": resources.cpus_per_worker or 1, "GPU": gpus},
            ),
            run_config=RunConfig(
                name=f"{ctx.path.name}-{time.time_ns():x}",  # Ray's own state is not used: a name used twice resumes
                **_ray_storage(ctx),
                failure_config=FailureConfig(max_failures=0),  # Ray would also try again what the user must mend
            ),
        )
        try:
            result = trainer.fit().return_value
            break
        except TrainingFailedError as error:
            cause = unwrap(error)
            if isinstance(cause, UserError) or failures == resources.max_failures:
                raise
            failures += 1
            text = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            log.warning("workers failed (%s): start %d of %d more", text, failures, resources.max_failures)
    if not alone:
        ctx.pull(exact=True)  # what the main worker made elsewhere
    return result  # pyright: ignore[reportReturnType]


def _group(backend: str, ctx: RunContext) -> Any:
    """How the workers form a process group: on the loopback where no other machine can take part."""
    from ray.train.torch import TorchConfig

    from sslscale.cluster.connection import OWN
    from sslscale.cluster.rendezvous import LoopbackTorchConfig

    own = os.environ.get(OWN) == "1" and ctx.resources.num_workers > 1
    return (LoopbackTorchConfig if own else TorchConfig)(backend=backend, timeout_s=ctx.resources.timeout_s)


def _ray_storage(ctx: RunContext) -> dict[str, Any]:
    """Where Ray Train keeps a few notes of its own, which all workers must see."""
    if ctx.store and ctx.resources.num_workers > 1:
        files, base = mirror.at(ctx.store, ctx.root).store.arrow()
        return {"storage_path": f"{base}/ray", "storage_filesystem": files}
    return {"storage_path": str(ctx.root / "ray")}


class _TrainLoop:
    """The picklable loop that Ray Train runs on each worker."""

    def __init__(self, loop: Callable[[RunContext, Any], Any], ctx: RunContext, alone: bool):
        self.loop, self.ctx, self.alone = loop, ctx, alone
        self.__name__ = "train_loop"

    def __call__(self, config: dict[str, Any]) -> Any:
        if self.alone:
            return self.loop(self.ctx, config["work"])
        import ray.train

        self.ctx.pull_inputs(exact=True)
        place = ray.train.get_context()
        rank = place.get_world_rank()
        threads = threads_per_worker(self.ctx.resources.cpus_per_worker, place.get_local_world_size())
        ctx = dataclasses.replace(self.ctx, threads=threads)
        with (
            redirect_output(self.ctx.root / "logs" / f"{self.ctx.path.name}-worker{rank}.log"),
            collect_warnings(self.ctx.path),
        ):
            return self.loop(ctx, config["work"])


def gpus_per_worker(asked: float | None, available: int) -> float:
    """GPUs per worker: as configured, else one each if there are any."""
    return asked if asked is not None else float(available > 0)


def threads_per_worker(cpus_per_worker: int | None, workers_here: int) -> int:
    """Threads of one worker: as configured, else its share of the node's CPUs."""
    return cpus_per_worker or max((os.cpu_count() or 1) // max(workers_here, 1), 1)


def workers_here(num_workers: int) -> int:
    """How many of a stage's workers to expect on this node, by its share of the cluster's CPUs."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    cpus = {node["NodeID"]: node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]}
    return math.ceil(num_workers * cpus.get(own, 0) / max(sum(cpus.values()), 1))


def unwrap(error: BaseException) -> BaseException:
    """Find what a stage raised below Ray's and Ray Train's wrappers."""
    import ray.exceptions

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, UserError) and type(seen).__module__ == UserError.__module__:
            return seen
        failures = getattr(seen, "worker_failures", None) or {}
        inner = next(iter(failures.values()), None)
        if isinstance(seen, ray.exceptions.RayTaskError) and isinstance(seen.cause, BaseException):
            inner = seen.cause
        seen = inner or seen.__cause__
    return error


@contextlib.contextmanager
def redirect_output(file: Path) -> Iterator[None]:
    """Send this process's stdout and stderr to `file`, also what libraries write below Python."""
    file.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    target = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for fd in (*saved, target):
            os.close(fd)
