"""Stages on ray: each is a task of the cluster that is there, or of one on this machine."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path
from typing import Any

from sslscale import mirror
from sslscale.errors import ResourceError, UserError
from sslscale.execution import Job, execute
from sslscale.workers import gpus_per_worker, logged, unwrap

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
            blind = [host for reference, host in asked.items() if not self._seen(reference)]
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

    def _seen(self, reference: Any) -> bool:
        """What a node answered; one that is gone meanwhile has no say, one that does not answer sees nothing."""
        import ray.exceptions as gone

        try:
            return self._ray.get(reference, timeout=60)
        except gone.GetTimeoutError:
            return False
        except (gone.TaskUnschedulableError, gone.NodeDiedError, gone.WorkerCrashedError):
            return True

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
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if "Version mismatch" not in text:
            raise
        where = os.environ.get("RAY_ADDRESS")
        raise ResourceError(f"RAY_ADDRESS {where}: {text} Install the same Ray and Python on both sides") from None
    return ray


def _require_answer(address: str) -> None:
    """Raise OSError if HOST:PORT takes no connection, which Ray would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _sees(file: str, store: str) -> bool:
    if not store:
        return Path(file).exists()
    try:
        mirror.at(store, Path(file).parent).refresh()
    except UserError:
        return False
    return True


def _execute(job: Job, logs: str) -> dict[str, Any]:
    with logged(Path(logs) / f"{job.context.name.replace('/', '-')}.log"):
        return execute(job)
