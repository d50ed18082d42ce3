"""Make a data set beside its place, in several processes, and rename it when all of it is there."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sslscale.cli.busy import busy
from sslscale.errors import ResourceError, UserError
from sslscale.graph.context import RunContext
from sslscale.graph.resources import Resources
from sslscale.settings.data import PackConfig
from sslscale.storage import jsonio, locks
from sslscale.storage.scratch import scratch

if TYPE_CHECKING:
    from sslscale.data.index import Index

_NOTE = "source.json"  # what the folder is being made of


def build_beside(config: PackConfig, out: Path, workers: int) -> Mapping[str, Index]:
    """Pack or index into `out`, by `workers` processes; returns the index of each split.

    It is made in a folder beside. A killed attempt leaves that, and the same command goes on at the next shard. Raises
    UserError, and then leaves nothing.
    """
    out = out.absolute()
    place = out.with_name(f".{out.name}.packing")
    own = place / ".run"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(out), busy(f"writing {out.name}", own):
            from sslscale.data.build import build
            from sslscale.stages.pack import content, examine_shards, run_tasks

            _take_up(place, {"source": content(config, None), "config": jsonio.canonical(config), "out": str(out)})
            resources = Resources(num_workers=workers, cpus_per_worker=1 if workers > 1 else None, gpus_per_worker=0)
            threads = max((os.cpu_count() or 1) // workers, 1)
            context = RunContext(path=own, root=own, name="pack", resources=resources, threads=threads)
            own.mkdir(exist_ok=True)
            try:
                with _cluster(workers):
                    indexes = build(
                        config,
                        place,
                        scratch() / "examined",
                        threads=threads,
                        say=print,
                        run=partial(run_tasks, context),
                        examine=partial(examine_shards, context, config),
                    )
            except UserError:
                shutil.rmtree(place, ignore_errors=True)
                raise
            for left in (own, place / ".indexed"):
                shutil.rmtree(left, ignore_errors=True)
            (place / _NOTE).unlink()
            if out.is_dir():
                out.rmdir()  # empty
            os.rename(place, out)
    except OSError as error:
        raise ResourceError(f"{error.filename or out}: {error.strerror or error}; is {out} writable?") from None
    return indexes


@contextlib.contextmanager
def _only_one(out: Path) -> Iterator[None]:
    lock = locks.try_lock(out.with_name(f".{out.name}.lock"))
    if lock is None:
        raise ResourceError(f"{out}: another process is writing there; wait for it, or stop it")
    try:
        yield
    finally:
        lock.path.unlink(missing_ok=True)
        lock.release()


def _take_up(place: Path, made_of: dict[str, object]) -> None:
    """Go on in the folder if a killed attempt left it that was to make the same, else begin in an empty one."""
    try:
        same = jsonio.read_json(place / _NOTE) == made_of
    except (OSError, ValueError):
        same = False
    if not same:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True, exist_ok=True)
        jsonio.write_json(place / _NOTE, made_of)


@contextlib.contextmanager
def _cluster(workers: int) -> Iterator[None]:
    """Ray, if there is more than one process to start."""
    if workers == 1:
        yield
        return
    from sslscale.cluster.connection import connect, disconnect

    connect()
    try:
        yield
    finally:
        disconnect()
