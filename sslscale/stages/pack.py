"""Images from wherever they are -> shards of each split."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sslscale.data import fingerprint, sources, split
from sslscale.errors import DataError
from sslscale.graph.artifacts import Dataset
from sslscale.graph.context import RunContext
from sslscale.graph.dag import cpu_only
from sslscale.settings.data import PackConfig
from sslscale.settings.pixels import PixelConfig
from sslscale.storage import mirror
from sslscale.storage.jsonio import digest

if TYPE_CHECKING:
    from sslscale.data.examine import Facts
    from sslscale.data.index import Index
    from sslscale.data.pack import Task, Write
    from sslscale.data.webdatasets import Located

log = logging.getLogger(__name__)


def content(config: PackConfig, root: Path | None) -> str:
    """Identity of everything outside the root that packing reads."""
    parts: dict[str, str | float | None] = {
        "source": fingerprint.fingerprint(config.source, root, config.captions, video=config.video is not None)
    }
    if config.labels is not None:
        parts["labels"] = fingerprint.file_hash(Path(config.labels))
    if config.unlabeled is not None:
        parts["unlabeled"] = fingerprint.fingerprint(config.unlabeled, root)
    for name in ("val", "test"):
        share = getattr(config, name)
        if isinstance(share, str):
            place = share if split.annotated(share) else sources.resolve(config.source, share)
            share = fingerprint.fingerprint(place, root, config.captions, video=config.video is not None)
        parts[name] = share
    return digest(parts)


def is_labeled(config: PackConfig) -> bool:
    """Whether there are labelled images to learn from, as far as a plan can tell at little cost; else True."""
    return split.is_labeled(config)


def has_test(config: PackConfig) -> bool:
    """Whether there is a test split to measure on."""
    return split.has_test(config)


@cpu_only
def pack(ctx: RunContext, config: PackConfig) -> Dataset:
    """Write the shards of every split, or the index of those that others wrote.

    What `sslscale data pack` or `data index` wrote is taken as it is, without a copy. After an interruption, goes on at
    the next shard.
    """
    from sslscale.data import build
    from sslscale.data.limits import SKIPPED

    if sources.is_packed(config.source):
        indexes = _take_packed(ctx, config)
    else:
        parts = (ctx.local.folder if ctx.store else ctx.root / "cache") / "examined"
        indexes = build.build(
            config,
            ctx.path,
            parts,
            threads=ctx.threads,
            say=lambda line: log.warning("%s", line),
            run=partial(run_tasks, ctx),
            examine=partial(examine_shards, ctx, config),
        )
    classes = {index.classes for index in indexes.values()}
    if len(classes) > 1:
        raise DataError(f"{config.source}: its splits do not have the same classes")
    counts = {name: index.num_samples for name, index in indexes.items()}
    metrics = {f"{name}_images": count for name, count in counts.items()}
    if (ctx.path / SKIPPED).is_file():
        metrics["skipped_images"] = len((ctx.path / SKIPPED).read_text("utf-8").splitlines())
    return Dataset(path=str(ctx.path), num_samples=counts, classes=next(iter(classes)), metrics=metrics)


def run_tasks(ctx: RunContext, make: Callable[[int], Write], tasks: Sequence[Task]) -> None:
    """Write shards in the processes of a stage."""
    from sslscale.cluster.mappers import Mappers

    done = [0]

    def finished(task: Task, images: int) -> None:
        del task, images
        done[0] += 1
        ctx.progress(done[0], len(tasks))

    with Mappers(partial(_with_threads, make), ctx, len(tasks)) as mappers:
        mappers.map(tasks, finished=finished)


def _with_threads(make: Callable[[int], Write], ctx: RunContext) -> Write:
    return make(ctx.threads)


def examine_shards(
    ctx: RunContext, config: PackConfig, shards: Sequence[Located], done: Callable[[Located, Facts], None]
) -> None:
    """Examine shards in the processes of a stage."""
    from sslscale.cluster.mappers import Mappers

    count = [0]

    def finished(shard: Located, facts: Facts) -> None:
        done(shard, facts)
        count[0] += 1
        ctx.progress(count[0], len(shards))

    with Mappers(partial(_examiner, config.label, config.decoded), ctx, len(shards)) as mappers:
        mappers.map(shards, finished=finished, keep=False)


def _examiner(label: str | None, pixels: PixelConfig, ctx: RunContext) -> Callable[[Located], Facts]:
    from sslscale.data.examine import examine
    from sslscale.data.threads import pool

    return lambda shard: examine(shard, label, ctx.local, pool("examine", ctx.threads), pixels)


def _take_packed(ctx: RunContext, config: PackConfig) -> dict[str, Index]:
    """Refer to the shards of a folder that was packed or indexed before."""
    from sslscale.data.build import read_indexes

    own = (config.labels, config.unlabeled, config.val, config.test, config.resize, config.video)
    if any(own) or config.labels_per_class is not None:
        raise DataError(f"{config.source}: is packed already; set labels and splits when packing")
    source = sources.local_path(config.source).absolute()
    indexes = read_indexes(source)
    for name in sources.SPLITS:  # of an attempt that was stopped
        old = ctx.path / name
        old.unlink() if old.is_symlink() else shutil.rmtree(old, ignore_errors=True)
    for name in indexes:
        if mirror.is_url(config.source):
            _write_reference(f"{config.source}/{name}", source / name, ctx.path / name)
        else:
            os.symlink(source / name, ctx.path / name)
    return indexes


def _write_reference(url: str, source: Path, folder: Path) -> None:
    """A split whose shards stay in their store: each machine fetches those that it opens."""
    mirror.at(url, folder)
    for name in sources.PACKED:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)
