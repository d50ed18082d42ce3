"""Says what to do when a worker died: its memory did not suffice, or it crashed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from sslscale.errors import ResourceError, UserError
from sslscale.graph.execution import Job

_TAIL = 1 << 16
_KILLED = ("WorkerCrashedError", "ActorDiedError", "RayActorError")


def why_it_died(error: BaseException, job: Job, logs: Iterable[Path], old: Mapping[Path, int]) -> UserError | None:
    """What the user is told if `error` says that memory ran out, or that a worker died; None if it does not.

    `logs` are what its processes wrote: one that the system killed writes nothing, one that crashed the signal. The
    first `old` bytes of a log are of earlier runs.
    """
    for one in _causes(error):
        kind, text = type(one).__name__, str(one)
        if kind in ("OutOfMemoryError", "MemoryError") or "can't allocate memory" in text:
            what = "the GPU's memory ran out" if "CUDA" in text else "a worker's memory ran out"
            return ResourceError(f"{job.context.name}: {what}{_advice(job)}")
        if kind in _KILLED and "node has died" not in text:
            if signal := next(filter(None, (_crash(log, old.get(log, 0)) for log in logs)), None):
                return UserError(
                    f"{job.context.name}: a worker crashed again and again ({signal}), which is a defect of a library; "
                    "the worker's log may show where"
                )
            return ResourceError(
                f"{job.context.name}: a worker was killed again and again, as the system does when memory runs out "
                f"(`dmesg` tells){_advice(job)}"
            )
    return None


def _crash(log: Path, start: int) -> str:
    """The signal that the last crash told in a log after its first bytes names, or an empty text."""
    try:
        with log.open("rb") as file:
            file.seek(max(log.stat().st_size - _TAIL, start))
            found = re.findall(rb"\*\*\* (SIG[A-Z]+) received", file.read())
    except OSError:  # on another machine
        return ""
    return found[-1].decode() if found else ""


def _advice(job: Job) -> str:
    batch, workers = getattr(job.config, "batch_size", None), job.context.resources.num_workers
    if batch is None or batch <= workers:
        return "; run it where there is more memory"
    shared = f", over {workers} workers" if workers > 1 else ""
    smaller = max(batch // 2 // workers, 1) * workers
    trains = ", or resources.checkpoint_activations: true" if job.description.get("stage") == "train" else ""
    return f": its batch_size is {batch:,}{shared}; try {smaller:,}{trains}"


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
