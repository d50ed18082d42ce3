"""Running a plan: one job a stage, independent ones side by side, each committed by a record written last."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sslscale.errors import ResourceError, UserError
from sslscale.graph.artifacts import Artifact, to_fields
from sslscale.graph.context import STOP, RunContext
from sslscale.graph.dag import DESCRIPTION, RECORD, Planned, describe, load
from sslscale.graph.stage_warnings import collect_warnings
from sslscale.storage import locks, mirror, sums
from sslscale.storage.jsonio import sealed, to_bytes, write_json

_HEAVY = (".tar", ".npy", ".parquet", ".pt", "method.safetensors")  # what the driver of a run never reads


GRACE_S = 15.0  # for trainings to save their state when the run is interrupted
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything a worker needs to execute one stage."""

    fn: Callable[..., Artifact]
    config: Any
    inputs: Mapping[str, str]
    description: Mapping[str, Any]
    key: str
    context: RunContext
    git: str


def execute(job: Job) -> dict[str, Any]:
    """Run a job in this process and commit its artifact; returns the record. A lock admits one writer per directory.

    Raises ResourceError if a file cannot be written.
    """
    try:
        return _execute(job)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        where = error.filename or job.context.path
        raise ResourceError(
            f"{job.context.name}: {where}: cannot be written: {error.strerror}; what is finished is kept: make "
            "room and run again"
        ) from error


def _execute(job: Job) -> dict[str, Any]:
    started = time.monotonic()
    path = job.context.path
    path.mkdir(parents=True, exist_ok=True)
    store = mirror.at(job.context.store, job.context.root) if job.context.store else None
    with locks.acquire(path / "writer.lock", wait_s=60):
        job.context.pull_inputs(exact=job.context.resources.num_workers > 1)
        if (path / RECORD).exists():
            if store and not store.has_record(path):  # an attempt was stopped between the two
                store.commit(path, (path / RECORD).read_bytes())
            return sums.read_record(path / RECORD)
        for left in path.rglob("*.tmp-*"):  # of an attempt that was killed while it wrote
            if not left.name.startswith("mlflow.json"):  # the driver may be writing it
                left.unlink(missing_ok=True)
        if not (path / DESCRIPTION).exists():
            write_json(path / DESCRIPTION, {**job.description, "key": job.key, "name": job.context.name})
        resources = job.context.resources
        if getattr(job.fn, "cpu_only", False):  # then its workers ask for no GPU either
            resources = dataclasses.replace(resources, gpus_per_worker=0)
        # the CPUs of this machine, not the driver's; where several workers do the work, each knows its own share
        threads = resources.cpus_per_worker or os.cpu_count() or 1
        context = dataclasses.replace(job.context, threads=threads, resources=resources)
        inputs = {name: load(Path(where)) for name, where in job.inputs.items()}
        for where in job.inputs.values():
            sums.require_whole(Path(where))
        with collect_warnings(path):
            artifact = job.fn(context, job.config, **inputs)
        assert artifact.path == str(path), (artifact.path, path)
        for name in ("progress.json", STOP):
            (path / name).unlink(missing_ok=True)
        record = {
            **job.description,
            "sums": sums.take(path),
            "key": job.key,
            "name": job.context.name,
            "kind": type(artifact).__name__,
            "fields": to_fields(artifact),
            "seconds": round(time.monotonic() - started, 3),
            "num_workers": resources.num_workers,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "host": socket.gethostname(),
            "git": job.git,
        }
        record = sealed(record)
        job.context.push()
        if store:
            store.commit(path, to_bytes(record))
        write_json(path / RECORD, record)
        return record


class Runner(Protocol):
    """Executes jobs somewhere; `poll` returns those that ended, with a record or the exception."""

    def start(self, job: Job) -> None: ...

    def poll(self, timeout_s: float) -> list[tuple[Job, dict[str, Any] | BaseException]]: ...


class Inline:
    """Executes jobs one after another in this process, for tests and debuggers."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []

    def start(self, job: Job) -> None:
        self._jobs.append(job)

    def poll(self, timeout_s: float) -> list[tuple[Job, dict[str, Any] | BaseException]]:
        del timeout_s
        job = self._jobs.pop(0)
        try:
            return [(job, execute(job))]
        except Exception as error:
            return [(job, error)]


class StageFailed(Exception):
    """A stage raised; `__cause__` is what it raised."""

    def __init__(self, name: str, path: Path):
        super().__init__(name, path)
        self.name, self.path = name, path


class Observer(Protocol):
    """Is told every change of a stage's state: waiting, running, cached, ran, failed."""

    def changed(self, planned: Planned, state: str, record: Mapping[str, Any] | None) -> None: ...

    def tick(self) -> None: ...


def run(
    planned: Sequence[Planned],
    root: str | Path,
    runner: Runner,
    observers: Sequence[Observer] = (),
) -> dict[str, dict[str, Any]]:
    """Run what the plan says is missing, independent stages side by side; returns the records by stage name.

    Raises StageFailed after the stages already running have ended; what they finished is kept.
    """
    root = Path(root).absolute()
    git, attempt = git_commit(), uuid.uuid4().hex
    store = mirror.of(root)
    records: dict[str, dict[str, Any]] = {}
    paths = {p.key: str(p.path.absolute()) for p in planned}
    waiting = {p.key: p for p in planned}
    named: dict[str, list[Planned]] = {}  # stages that are the same one
    for p in planned:
        named.setdefault(p.key, []).append(p)
    running: dict[str, tuple[Planned, locks.Lock, Job]] = {}
    blocked: set[str] = set()
    failure: tuple[Planned, BaseException] | None = None

    def tell(entry: Planned, state: str, record: Mapping[str, Any] | None = None) -> None:
        for observer in observers:
            observer.changed(entry, state, record)

    def finish(entry: Planned, state: str, record: dict[str, Any]) -> None:
        for twin in named[entry.key]:
            records[twin.stage.name] = {**record, "state": state}
            tell(twin, state, record)

    try:
        while (waiting and failure is None) or running:
            for entry in list(waiting.values()) if failure is None else []:
                if any(key in waiting or key in running for key in entry.input_keys.values()):
                    continue
                lock = None
                if not (entry.path / RECORD).exists():
                    lock = locks.try_lock(root / "locks" / f"{entry.key}.lock")
                    if lock is None:  # another run is at it: its result will be ours
                        if entry.key not in blocked:
                            blocked.add(entry.key)
                            tell(entry, "waiting")
                        continue
                if (entry.path / RECORD).exists():
                    if lock:
                        lock.release()
                    del waiting[entry.key]
                    finish(entry, "cached", sums.read_record(entry.path / RECORD))
                    continue
                assert lock is not None
                del waiting[entry.key]
                job = _job(entry, paths, root, git, attempt)
                running[entry.key] = (entry, lock, job)
                tell(entry, "running")
                runner.start(job)
            for job, result in runner.poll(0.2) if running else []:
                entry, lock, _ = running.pop(job.key)
                lock.release()
                if store:
                    store.pull(entry.path, skip=_HEAVY)  # it may have run elsewhere
                if isinstance(result, BaseException):
                    failure = failure or (entry, result)
                    tell(entry, "failed")
                else:
                    finish(entry, "ran", result)
            if waiting and not running:
                time.sleep(0.2)
            for observer in observers:
                observer.tick()
    except KeyboardInterrupt:
        _let_save([job for _, _, job in running.values()], runner)
        raise
    finally:
        for _, lock, _ in running.values():
            lock.release()
    if failure is not None:
        raise StageFailed(failure[0].stage.name, failure[0].path) from failure[1]
    return records


def _let_save(running: Sequence[Job], runner: Runner) -> None:
    """Ask the trainings that run to save their state, and wait for them up to GRACE_S; a second interrupt ends that."""
    trainings: set[str] = set()
    for job in running:
        if job.description["stage"] == "train" and job.context.path.exists():  # else there is nothing to save yet
            with contextlib.suppress(OSError, UserError):  # a full disk, a store that is gone: the last state counts
                job.context.ask_to_stop()
                trainings.add(job.key)
    deadline = time.monotonic() + GRACE_S
    while trainings and time.monotonic() < deadline:
        for job, _ in runner.poll(0.2):
            trainings.discard(job.key)


def _job(entry: Planned, paths: Mapping[str, str], root: Path, git: str, attempt: str) -> Job:
    store = mirror.of(root)
    content = entry.stage.content(root) if entry.stage.content else None
    return Job(
        fn=entry.stage.fn,
        config=entry.stage.config,
        inputs={name: paths[key] for name, key in entry.input_keys.items()},
        description=describe(entry.stage, entry.input_keys, content),
        key=entry.key,
        git=git,
        context=RunContext(
            path=entry.path.absolute(),
            root=root,
            name=entry.stage.name,
            resources=entry.stage.resources,
            store=store.url if store else "",
            attempt=attempt,
            inputs=tuple(Path(paths[key]) for key in entry.input_keys.values()),
        ),
    )


def git_commit() -> str:
    """The commit of the working directory with `+` if it has changes, or an empty text outside a repository."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
