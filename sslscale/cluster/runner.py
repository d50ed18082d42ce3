"""Stages on ray: each is a task of the cluster that is there, or of one on this machine."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sslscale.cluster.autoscaling import autoscales
from sslscale.cluster.connection import OWN, connect, disconnect
from sslscale.cluster.memory import why_it_died
from sslscale.cluster.workers import gpus_per_worker, redirect_output, unwrap
from sslscale.errors import ConfigError, ResourceError, UserError
from sslscale.graph.dag import Stage
from sslscale.graph.execution import Job, execute
from sslscale.graph.stage_warnings import collect_warnings
from sslscale.storage import mirror

_HEAVY = ("train", "score", "extract")  # stages that should not compute on CPUs by mistake
log = logging.getLogger(__name__)


class RayRunner:
    """Runs stages as Ray tasks: on the cluster that RAY_ADDRESS names, else on one of its own on this machine.

    A worker process serves many stages, so torch is imported once by stages that follow one another.
    """

    def __init__(self, logs: Path):
        import ray

        self._joined = ray.is_initialized()  # a trial's process is in the cluster already
        self._ray = ray if self._joined else connect()
        self._own = os.environ.get(OWN) == "1"
        self._logs = logs
        self._jobs: dict[Any, Job] = {}
        self._old: dict[Path, int] = {}  # bytes of logs that are of earlier runs
        self._waiting: list[tuple[Job, float]] = []  # for nodes; until when

    def start(self, job: Job) -> None:
        """Submit a job, or let it wait for nodes that may come; raises ResourceError where none can come."""
        short = self._shortage(job)
        if short is None:
            self._submit(job)
            return
        patience = 0.0 if self._own else job.context.resources.wait_for_nodes_s
        if not patience:
            raise ResourceError(short)
        text = f"waiting for nodes: {short}; gives up after {patience:g} s (resources.wait_for_nodes_s)"
        job.context.path.mkdir(parents=True, exist_ok=True)
        with collect_warnings(job.context.path):
            log.warning("%s", text)
        self._waiting.append((job, time.monotonic() + patience))
        self._ask_for_nodes()

    def _submit(self, job: Job) -> None:
        """One worker: the stage's task does the work. More: the task only waits for its workers."""
        resources, gpus = job.context.resources, self._gpus(job)
        alone = resources.num_workers == 1
        if job.fn.__name__ == "train" and not self._own and not gpus and resources.gpus_per_worker is None:
            with collect_warnings(job.context.path):
                log.warning("the cluster has no GPU: it trains on CPUs")
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
        self._old |= {log: log.stat().st_size for log in self._logs_of(job) if log.exists()}
        self._jobs[task.remote(job, str(self._logs))] = job

    def _gpus(self, job: Job) -> float:
        if getattr(job.fn, "cpu_only", False):
            return 0.0
        available = int(self._ray.cluster_resources().get("GPU", 0))
        return gpus_per_worker(job.context.resources.gpus_per_worker, available)

    def _shortage(self, job: Job) -> str | None:
        """Why the workers of a job do not fit the nodes there are; None if they do."""
        resources, gpus = job.context.resources, self._gpus(job)
        least, cpus = resources.min_workers or resources.num_workers, resources.cpus_per_worker or 1
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        fit = sum(
            int(min(node.get("CPU", 0) // cpus, node.get("GPU", 0) // gpus if gpus else math.inf)) for node in nodes
        )
        if fit >= least:
            return None
        name = job.context.name
        all_cpus, all_gpus = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("CPU", "GPU"))
        if gpus * least > all_gpus:
            return (
                f"{name}: {least} workers of {gpus:g} GPUs are more than the {all_gpus} GPUs there are; set "
                f"num_workers to {max(int(all_gpus // gpus), 1)} at most, or gpus_per_worker to 0 to compute on CPUs"
            )
        if least * cpus > all_cpus:
            return (
                f"{name}: {least} workers of {cpus} CPUs are more than the {all_cpus} CPUs there are; lower "
                "resources.num_workers or cpus_per_worker"
            )
        there = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
        return (
            f"{name}: {least} workers of {cpus} CPUs and {gpus:g} GPUs fit no node, or not all of them do; there are "
            f"nodes of {there}"
        )

    def _ask_for_nodes(self) -> None:
        """Tell the cluster's autoscaler, if it has one, what the jobs that wait need."""
        from ray.autoscaler.sdk import request_resources

        wanted: list[dict[str, float]] = []
        for job, _ in self._waiting:
            resources, gpus = job.context.resources, self._gpus(job)
            bundle = {"CPU": float(resources.cpus_per_worker or 1), **({"GPU": gpus} if gpus else {})}
            wanted += [bundle] * resources.num_workers  # it begins with min_workers, and grows as nodes come
        request_resources(bundles=wanted)

    def _retry_waiting(self) -> list[tuple[Job, dict[str, Any] | BaseException]]:
        """Submit jobs for which nodes have come; returns those that waited too long."""
        late: list[tuple[Job, dict[str, Any] | BaseException]] = []
        before, self._waiting = self._waiting, []
        for job, until in before:
            short = self._shortage(job)
            if short is None:
                self._submit(job)
            elif time.monotonic() > until:
                patience = job.context.resources.wait_for_nodes_s
                late.append((job, ResourceError(f"{short}; no node came in {patience:g} s (wait_for_nodes_s)")))
            else:
                self._waiting.append((job, until))
        if len(self._waiting) < len(before):
            self._ask_for_nodes()
        return late

    def require_gpus(self, stages: Iterable[Stage]) -> None:
        """Raise ConfigError for a stage that is to compute, and does not say on what, where GPUs may still come."""
        if self._own or self._ray.cluster_resources().get("GPU", 0) or not autoscales():
            return
        for stage in stages:
            if stage.resources.gpus_per_worker is None and stage.kind in _HEAVY:
                raise ConfigError(
                    f"{stage.name}: the cluster has no GPU now, and its autoscaler may bring some: set gpus_per_worker "
                    "of its resources to 1, to wait for them, or to 0, to compute on CPUs"
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
                task = self._ray.remote(_can_see).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
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
        ended = self._retry_waiting() if self._waiting else []
        if not self._jobs:
            time.sleep(0 if ended else timeout_s)
            return ended
        done, _ = self._ray.wait(list(self._jobs), num_returns=1, timeout=timeout_s, fetch_local=True)
        for reference in done:
            job = self._jobs.pop(reference)
            try:
                ended.append((job, self._ray.get(reference)))
            except Exception as error:
                cause = unwrap(error)
                if not isinstance(cause, UserError):
                    cause = why_it_died(error, job, self._logs_of(job), self._old) or cause
                ended.append((job, cause))
        return ended

    def _logs_of(self, job: Job) -> list[Path]:
        """What this run's processes wrote about a job."""
        context = job.context
        return [_log_of(job, self._logs), *(context.root / "logs").glob(f"{context.path.name}-worker*.log")]

    def close(self) -> None:
        """Stop the cluster if it is this run's own, else leave it."""
        for reference in self._jobs:
            with contextlib.suppress(Exception):
                self._ray.cancel(reference, force=True)
        if self._waiting:
            self._waiting = []
            with contextlib.suppress(Exception):
                self._ask_for_nodes()
        if not self._joined:
            disconnect()


def _log_of(job: Job, logs: Path) -> Path:
    return logs / f"{job.context.name.replace('/', '-')}.log"


def _can_see(file: str, store: str) -> bool:
    if not store:
        return Path(file).exists()
    try:
        mirror.at(store, Path(file).parent).refresh()
    except UserError:
        return False
    return True


def _execute(job: Job, logs: str) -> dict[str, Any]:
    with redirect_output(_log_of(job, Path(logs))):
        return execute(job)
