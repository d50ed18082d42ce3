"""Images from wherever they are -> shards of each split."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from sslscale.data import fingerprint, sources, split
from sslscale.errors import DataError
from sslscale.graph.artifacts import Dataset
from sslscale.graph.context import RunContext
from sslscale.graph.dag import cpu_only
from sslscale.settings.data import PackConfig
from sslscale.storage import mirror
from sslscale.storage.jsonio import digest

log = logging.getLogger(__name__)


def content(config: PackConfig, root: Path) -> str:
    """Identity of everything outside the root that packing reads."""
    parts: dict[str, str | float | None] = {"source": fingerprint.fingerprint(config.source, root)}
    if config.labels is not None:
        parts["labels"] = fingerprint.file_hash(Path(config.labels))
    for name in ("val", "test"):
        share = getattr(config, name)
        if isinstance(share, str):
            share = fingerprint.fingerprint(sources.resolve(config.source, share), root)
        parts[name] = share
    return digest(parts)


def is_labeled(config: PackConfig) -> bool:
    """Whether there are labelled images to learn from, as far as a plan can tell at little cost; else True."""
    return split.is_labeled(config)


@cpu_only
def pack(ctx: RunContext, config: PackConfig) -> Dataset:
    """Write the shards of every split; shards that exist already are taken as they are, without a copy."""
    from sslscale.data import pack as packing
    from sslscale.data.index import read_index

    for name in sources.SPLITS:  # of an attempt that was stopped
        old = ctx.path / name
        old.unlink() if old.is_symlink() else shutil.rmtree(old, ignore_errors=True)
    if sources.is_packed(config.source):
        if config.labels or config.labels_per_class or config.val or config.test or config.resize:
            raise DataError(f"{config.source}: is packed already; set labels and splits when packing")
        source = sources.local_path(config.source).absolute()
        indexes = {
            name: read_index(source / name) for name in sources.SPLITS if (source / name / "index.json").exists()
        }
        for name in indexes:
            if mirror.is_url(config.source):
                _write_reference(f"{config.source}/{name}", source / name, ctx.path / name)
            else:
                os.symlink(source / name, ctx.path / name)
    else:
        indexes = packing.pack(config, ctx.path, threads=ctx.threads, say=lambda line: log.warning("%s", line))
    classes = {index.classes for index in indexes.values()}
    if len(classes) > 1:
        raise DataError(f"{config.source}: its splits do not have the same classes")
    counts = {name: index.num_samples for name, index in indexes.items()}
    return Dataset(
        path=str(ctx.path),
        num_samples=counts,
        classes=next(iter(classes)),
        metrics={f"{name}_images": count for name, count in counts.items()},
    )


def _write_reference(url: str, source: Path, folder: Path) -> None:
    """A split whose shards stay in their store: each machine fetches those that it opens."""
    mirror.at(url, folder)
    for name in sources.PACKED:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)
