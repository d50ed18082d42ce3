"""The file that imports ray: stages run remotely, training workers, and maps over shards."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sslscale import mirror
from sslscale.dag import RunContext
from sslscale.errors import ConfigError, ResourceError, UserError
from sslscale.execution import Job, execute

T = TypeVar("T")
W = TypeVar("W")

# Set before ray is imported, in the driver; workers inherit them.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run`, Ray would resolve the environment again in each worker
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


class RayRunner:
    """Runs stages as Ray tasks: on the cluster that RAY_ADDRESS names, else on one of its own on this machine.

    A worker process serves many stages, so torch is imported once by stages that follow one another.
    """

    def __init__(self, logs: Path):
        import ray

        self._joined = ray.is_initialized()  # a trial's process is in the cluster already
        self._ray = ray if self._joined else connect()
        self._logs = logs
        self.cpus = int(ray.cluster_resources().get("CPU", 1))
        self.gpus = int(ray.cluster_resources().get("GPU", 0))
        self._jobs: dict[Any, Job] = {}

    def start(self, job: Job) -> None:
        """Submit a job. One worker: the stage's task does the work. More: the task only waits for its workers."""
        resources = job.context.resources
        least = resources.min_workers or resources.num_workers
        wanted = least * (resources.cpus_per_worker or 1)
        if wanted > self.cpus:
            raise ResourceError(
                f"{job.context.name}: {least} workers of {resources.cpus_per_worker or 1} CPUs "
                f"are more than the {self.cpus} CPUs there are; lower resources.num_workers or cpus_per_worker"
            )
        alone = resources.num_workers == 1
        gpus = gpus_per_worker(resources.gpus_per_worker, resources.num_workers, self.gpus)
        if gpus * least > self.gpus:
            raise ResourceError(
                f"{job.context.name}: {least} workers of {gpus:g} GPUs are more than the "
                f"{self.gpus} GPUs there are; lower resources.num_workers or gpus_per_worker"
            )
        self._require_node(job.context.name, resources.cpus_per_worker or 1, gpus)
        own = job.fn.__module__
        if not own.startswith("sslscale."):  # a stage of the user's own pipeline: workers cannot import its file
            from ray import cloudpickle

            cloudpickle.register_pickle_by_value(sys.modules[own])
        task = self._ray.remote(_execute).options(
            name=job.context.name,
            num_cpus=(resources.cpus_per_worker or 1) if alone else 0,
            num_gpus=gpus if alone else 0,
            scheduling_strategy="DEFAULT",  # not inside what a trial was given, which is next to nothing
            max_retries=2,  # a lost node or a killed process; the stage goes on from what it left
        )
        self._jobs[task.remote(job, str(self._logs))] = job

    def _require_node(self, name: str, cpus: float, gpus: float) -> None:
        """A worker that fits no node would wait for ever."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            there = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
            raise ResourceError(
                f"{name}: no node has the {cpus:g} CPUs and {gpus:g} GPUs of a worker; there are nodes of {there}"
            )

    def require_root(self, root: Path) -> None:
        """Raise ResourceError unless every node sees what this process writes under the root."""
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        if len(nodes) < 2:
            return
        store = mirror.of(root)
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        probe = root / f".probe-{os.getpid()}"
        probe.write_bytes(b"ok")
        try:
            asked: dict[Any, str] = {}
            for node in nodes:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                task = self._ray.remote(_sees).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
                asked[task.remote(str(probe), store.url if store else "")] = node["NodeManagerHostname"]
            blind = [host for reference, host in asked.items() if not self._ray.get(reference, timeout=60)]
        finally:
            probe.unlink(missing_ok=True)
        if blind:
            raise ResourceError(
                f"--root {root}: {len(blind)} of {len(nodes)} nodes do not see it "
                f"({', '.join(sorted(set(blind))[:3])}); mount it there, under the same path"
                if store is None
                else f"--root {store.url}: {len(blind)} of {len(nodes)} nodes cannot read it "
                f"({', '.join(sorted(set(blind))[:3])}); give them credentials and the library of that store"
            )

    def poll(self, timeout_s: float) -> list[tuple[Job, dict[str, Any] | BaseException]]:
        """Wait up to `timeout_s` and return the jobs that ended, each with its record or what it raised."""
        done, _ = self._ray.wait(list(self._jobs), num_returns=1, timeout=timeout_s, fetch_local=True)
        ended = []
        for reference in done:
            job = self._jobs.pop(reference)
            try:
                ended.append((job, self._ray.get(reference)))
            except Exception as error:
                ended.append((job, unwrap(error)))
        return ended

    def close(self) -> None:
        """Stop the cluster if it is this run's own, else leave it."""
        for reference in self._jobs:
            with contextlib.suppress(Exception):
                self._ray.cancel(reference, force=True)
        if not self._joined:
            self._ray.shutdown()


def connect() -> Any:
    """Join the cluster that RAY_ADDRESS names, or start one of this run alone; returns the module ray."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if os.environ.get("RAY_ADDRESS") is None:  # a bare init would join any cluster that happens to run here
        options |= {"address": "local", "include_dashboard": False, "object_store_memory": 256 << 20}
        # Ray's own 15 leaves a run a thirtieth of a core beside any other busy process; `nice sslscale` still works
        os.environ.setdefault("RAY_worker_niceness", "0")
        # OpenMP's threads wait for each other spinning: beside one busy process 400 small steps took over 130 s, with
        # fewer turns 19 s; alone 6.4 and 7.1 s
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        _require_answer(os.environ.get("RAY_ADDRESS", ""))
        ray.init(**options)
    except OSError as error:  # ConnectionError is one
        where = os.environ.get("RAY_ADDRESS", "this machine")
        text = str(error).splitlines()[0]
        raise ResourceError(
            f"RAY_ADDRESS {where}: no cluster answers there ({text}); mend it, or unset it to run on this machine alone"
        ) from None
    return ray


def _require_answer(address: str) -> None:
    """Raise OSError if HOST:PORT takes no connection, which Ray would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def gpus_per_worker(asked: float | None, num_workers: int, available: int) -> float:
    """What a worker gets if nothing was asked for: a GPU each where there are enough, else none."""
    return asked if asked is not None else float(available >= num_workers)


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


def _sees(file: str, store: str) -> bool:
    if not store:
        return Path(file).exists()
    try:
        mirror.at(store, Path(file).parent).refresh()
    except UserError:
        return False
    return True


def _execute(job: Job, logs: str) -> dict[str, Any]:
    with _logged(Path(logs) / f"{job.context.name.replace('/', '-')}.log"):
        return execute(job)


@contextlib.contextmanager
def _logged(file: Path) -> Iterator[None]:
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


def train_workers(loop: Callable[[W], T], work: W, ctx: RunContext) -> T:
    """Call `loop(work)` on `num_workers` training workers with a process group; returns the main one's result.

    One worker is Ray Train's local mode, in this process. A worker that dies makes all of them start again, up to
    `max_failures` times; the loop goes on from its own checkpoints.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

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

        available = int(ray.cluster_resources().get("GPU", 0))
        gpus = gpus_per_worker(resources.gpus_per_worker, resources.num_workers, available)
    trainer = TorchTrainer(
        _TrainLoop(loop, ctx, alone),
        train_loop_config={"work": work},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
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
        ctx.gather(exact=True)  # what the main worker made elsewhere
    return result  # pyright: ignore[reportReturnType]


def _ray_storage(ctx: RunContext) -> dict[str, Any]:
    """Where Ray Train keeps a few notes of its own, which all workers must see."""
    if ctx.store and ctx.resources.num_workers > 1:
        files, base = mirror.at(ctx.store, ctx.root).arrow()
        return {"storage_path": f"{base}/ray", "storage_filesystem": files}
    return {"storage_path": str(ctx.root / "ray")}


class _TrainLoop:
    """The picklable loop that Ray Train runs on each worker."""

    def __init__(self, loop: Callable[[Any], Any], ctx: RunContext, alone: bool):
        self.loop, self.ctx, self.alone = loop, ctx, alone
        self.__name__ = "train_loop"

    def __call__(self, config: dict[str, Any]) -> Any:
        if self.alone:
            return self.loop(config["work"])
        import ray.train

        self.ctx.arrive(exact=True)
        rank = ray.train.get_context().get_world_rank()
        with _logged(self.ctx.root / "logs" / f"{self.ctx.path.name}-worker{rank}.log"):
            return self.loop(config["work"])


class Mappers:
    """Processes that keep what is dear to load, and are called with many items. Use it in a `with` statement.

    `make()` runs once a process and returns the function. One worker works in this process; more are Ray actors, which
    take the next item as they are free. The item of one that dies goes to another, up to `max_failures` times.
    """

    def __init__(self, make: Callable[[], Callable[..., Any]], ctx: RunContext, most: int):
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
            self._function = self._function or self._make()
            for place, item in enumerate(items):
                results[place] = self._function(item, *shared)
                self._ctx.keep()
                finished(item, results[place])
            return results
        import ray
        import ray.exceptions

        shared = tuple(ray.put(value) for value in shared)  # once for all items, not with each
        waiting, failures = list(reversed(range(len(items)))), 0
        idle: list[Any] = []
        running: dict[Any, tuple[Any, int]] = {}
        starting = {handle.ready.remote(): handle for handle in self._workers()}
        try:
            while waiting or running:
                while waiting and idle:
                    place = waiting.pop()
                    handle = idle.pop()
                    running[handle.call.remote(items[place], *shared)] = (handle, place)
                (reference,), _ = ray.wait([*running, *starting], num_returns=1)
                handle, place = running.pop(reference) if reference in running else (starting.pop(reference), None)
                try:
                    result = ray.get(reference)
                except ray.exceptions.RayActorError as error:  # its process or node is gone: another takes the item
                    failures += 1
                    if isinstance(unwrap(error), UserError) or failures > self._ctx.resources.max_failures:
                        raise
                    if place is not None:
                        waiting.append(place)
                    self._actors.remove(handle)
                    handle = self._start()
                    starting[handle.ready.remote()] = handle  # where there is room for it, maybe never
                    continue
                idle.append(handle)
                if place is not None:
                    results[place] = result
                    finished(items[place], result)
            self._ctx.gather()
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

        resources, count = self._ctx.resources, self._num_workers
        actor: Any = ray.remote(_Mapper).options(
            num_cpus=resources.cpus_per_worker or 1,
            num_gpus=gpus_per_worker(resources.gpus_per_worker, count, int(ray.cluster_resources().get("GPU", 0))),
        )
        self._started += 1
        log = self._ctx.root / "logs" / f"{self._ctx.path.name}-mapper{self._started - 1}.log"
        self._actors.append(actor.remote(self._make, self._ctx, str(log)))
        return self._actors[-1]


class _Mapper:
    """A process that keeps what `make` loaded and is called with one item at a time."""

    def __init__(self, make: Callable[[], Callable[..., Any]], ctx: RunContext, log: str):
        self._log, self._ctx = Path(log), ctx
        with _logged(self._log):
            ctx.arrive()
            self._function = make()

    def ready(self) -> None:
        """Answered once `make` is done."""

    def call(self, item: Any, *shared: Any) -> Any:
        with _logged(self._log):
            result = self._function(item, *shared)
            self._ctx.keep()
            return result
