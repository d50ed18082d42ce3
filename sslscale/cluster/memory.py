"""Says what to do when the memory of a worker did not suffice."""

from __future__ import annotations

from collections.abc import Iterator

from sslscale.errors import ResourceError
from sslscale.graph.execution import Job

_KILLED = ("WorkerCrashedError", "ActorDiedError", "RayActorError")


def out_of_memory(error: BaseException, job: Job) -> ResourceError | None:
    """What the user is told if `error` says that memory ran out, or that a worker was killed; None if it does not."""
    for one in _causes(error):
        kind, text = type(one).__name__, str(one)
        if kind in ("OutOfMemoryError", "MemoryError") or "can't allocate memory" in text:
            what = "the GPU's memory ran out" if "CUDA" in text else "a worker's memory ran out"
            return ResourceError(f"{job.context.name}: {what}{_advice(job)}")
        if kind in _KILLED and "node has died" not in text:
            return ResourceError(
                f"{job.context.name}: a worker was killed again and again, as the system does when memory runs out "
                f"(`dmesg` tells){_advice(job)}"
            )
    return None


def _advice(job: Job) -> str:
    batch, workers = getattr(job.config, "batch_size", None), job.context.resources.num_workers
    if batch is None or batch <= workers:
        return "; run it where there is more memory"
    shared = f", over {workers} workers" if workers > 1 else ""
    smaller = max(batch // 2 // workers, 1) * workers
    return f": its batch_size is {batch:,}{shared}; try {smaller:,}, or resources.checkpoint_activations: true"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and all that led to it, as far as Ray and Ray Train tell."""
    waiting, seen = [error], set()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner = [one.__cause__, getattr(one, "cause", None), *(getattr(one, "worker_failures", None) or {}).values()]
        waiting += [found for found in inner if isinstance(found, BaseException)]
