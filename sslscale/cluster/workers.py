"""Workers of a stage, on ray: those that train together, and those that take one item after another."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sslscale.cluster.stage_warnings import collect_warnings
from sslscale.errors import ConfigError, UserError
from sslscale.graph.context import RunContext
from sslscale.storage import mirror

T = TypeVar("T")
W = TypeVar("W")
_AHEAD = 2  # one that a process works on, and one that waits there, so that it need not wait for its master


def train_workers(loop: Callable[[RunContext, W], T], work: W, ctx: RunContext) -> T:
    """Call `loop(ctx, work)` on `num_workers` training workers with a process group; returns the main one's result.

    One worker is Ray Train's local mode, in this process. A worker that dies makes all of them start again, up to
    `max_failures` times; the loop goes on from its own checkpoints.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

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
    trainer = TorchTrainer(
        _TrainLoop(loop, ctx, alone),
        train_loop_config={"work": work},
        torch_config=TorchConfig(backend=distributed.backend(cuda=gpus > 0, host_too=resources.offload)),
        scaling_config=ScalingConfig(
            num_workers=0 if alone else (resources.min_workers or most, most) if elastic else most,
            use_gpu=gpus > 0,
            resources_per_worker=None if alone else {"CPU": resources.cpus_per_worker or 1, "GPU": gpus},
        ),
        run_config=RunConfig(
            name=f"{ctx.path.name}-{time.time_ns():x}",  # Ray's own state is not used: a name used twice would resume
            **_ray_storage(ctx),
            failure_config=FailureConfig(max_failures=resources.max_failures),
        ),
    )
    result = trainer.fit().return_value
    if not alone:
        ctx.pull(exact=True)  # what the main worker made elsewhere
    return result  # pyright: ignore[reportReturnType]


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


class Mappers:
    """Processes that keep what is dear to load, and are called with many items. Use it in a `with` statement.

    `make(ctx)` runs once a process and returns the function; its context has the threads of that process. One worker
    works in this process; more are Ray actors, which take the next item as they are free. The item of one that dies
    goes to another, up to `max_failures` times.
    """

    def __init__(self, make: Callable[[RunContext], Callable[..., Any]], ctx: RunContext, most: int):
        self._make, self._ctx = make, ctx
        self._num_workers = min(ctx.resources.num_workers, most)
        self._function: Callable[..., Any] | None = None
        self._actors: list[Any] = []
        self._started = 0

    def __enter__(self) -> Mappers:
        return self

    def __exit__(self, *reason: object) -> None:
        if self._actors:
            import ray

            for handle in self._actors:
                ray.kill(handle)

    def map(
        self, items: Sequence[Any], *shared: Any, finished: Callable[[Any, Any], None] = lambda item, result: None
    ) -> list[Any]:
        """The results of function(item, *shared) in the order of the items; `finished` hears of each as it ends."""
        if not items:
            return []
        results: list[Any] = [None] * len(items)
        if self._num_workers == 1:
            self._function = self._function or self._make(self._ctx)
            for place, item in enumerate(items):
                results[place] = self._function(item, *shared)
                self._ctx.push()
                finished(item, results[place])
            return results
        import ray
        import ray.exceptions

        shared = tuple(ray.put(value) for value in shared)  # once for all items, not with each
        waiting, failures = list(reversed(range(len(items)))), 0
        load: dict[Any, int] = {}  # items that each process has
        running: dict[Any, tuple[Any, int | None]] = {h.ready.remote(): (h, None) for h in self._workers()}
        try:
            while waiting or any(place is not None for _, place in running.values()):
                for depth in range(_AHEAD):
                    for handle in [one for one, count in load.items() if count == depth]:
                        if waiting and (not depth or len(waiting) > len(load)):  # the last ones go to who is free
                            place = waiting.pop()
                            running[handle.call.remote(items[place], *shared)] = (handle, place)
                            load[handle] += 1
                (reference,), _ = ray.wait(list(running), num_returns=1)
                handle, place = running.pop(reference)
                try:
                    result = ray.get(reference)
                except ray.exceptions.RayActorError as error:  # its process or node is gone: another takes the item
                    if place is not None:
                        waiting.append(place)
                    if handle not in self._actors:  # known from its other item
                        continue
                    failures += 1
                    if isinstance(unwrap(error), UserError) or failures > self._ctx.resources.max_failures:
                        raise
                    load.pop(handle, None)
                    self._actors.remove(handle)
                    handle = self._start()
                    running[handle.ready.remote()] = (handle, None)  # where there is room for it, maybe never
                    continue
                if handle in self._actors:
                    load[handle] = load.get(handle, 1) - 1
                if place is not None:
                    results[place] = result
                    finished(items[place], result)
            self._ctx.pull()
            return results
        except Exception as error:
            raise unwrap(error) from None

    def _workers(self) -> list[Any]:
        while len(self._actors) < self._num_workers:
            self._start()
        return list(self._actors)

    def _start(self) -> Any:
        """Ask for one more process; it works as soon as the cluster has room for it."""
        import ray

        resources = self._ctx.resources
        actor: Any = ray.remote(_Mapper).options(
            num_cpus=resources.cpus_per_worker or 1,
            num_gpus=gpus_per_worker(resources.gpus_per_worker, int(ray.cluster_resources().get("GPU", 0))),
        )
        self._started += 1
        log = self._ctx.root / "logs" / f"{self._ctx.path.name}-mapper{self._started - 1}.log"
        self._actors.append(actor.remote(self._make, self._ctx, str(log)))
        return self._actors[-1]


class _Mapper:
    """A process that keeps what `make` loaded and is called with one item at a time."""

    def __init__(self, make: Callable[[RunContext], Callable[..., Any]], ctx: RunContext, log: str):
        threads = threads_per_worker(ctx.resources.cpus_per_worker, _workers_here(ctx.resources.num_workers))
        self._log, self._ctx = Path(log), ctx
        with redirect_output(self._log), collect_warnings(ctx.path):
            ctx.pull_inputs()
            self._function = make(dataclasses.replace(ctx, threads=threads))

    def ready(self) -> None:
        """Answered once `make` is done."""

    def call(self, item: Any, *shared: Any) -> Any:
        with redirect_output(self._log), collect_warnings(self._ctx.path):
            result = self._function(item, *shared)
            self._ctx.push()
            return result


def gpus_per_worker(asked: float | None, available: int) -> float:
    """What a worker gets: what was asked for, else a GPU each where there are any."""
    return asked if asked is not None else float(available > 0)


def threads_per_worker(cpus_per_worker: int | None, workers_here: int) -> int:
    """The threads of one of a node's workers: what was asked for, else its share of the node's CPUs."""
    return cpus_per_worker or max((os.cpu_count() or 1) // max(workers_here, 1), 1)


def _workers_here(num_workers: int) -> int:
    """How many of a stage's workers to expect on this node: by its share of the cluster's CPUs."""
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
