"""A data set from any source: packed as shards of its own, or indexed where others' shards lie."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from sslscale.data import sources
from sslscale.data.index import Index, read_index
from sslscale.data.indexing import Examine, index_webdataset
from sslscale.data.limits import SKIPPED
from sslscale.data.pack import Run, pack
from sslscale.data.samples import Samples, open_samples
from sslscale.data.sources import Item
from sslscale.data.split import Split
from sslscale.data.webdatasets import PREFIX
from sslscale.settings.data import PackConfig


def build(
    config: PackConfig,
    folder: Path,
    parts: Path,
    *,
    threads: int,
    say: Callable[[str], None],
    run: Run | None,
    examine: Examine,
) -> dict[str, Index]:
    """Write folder/labeled, unlabeled, val and test; returns the index of each.

    A WebDataset is indexed where it lies, and `parts` keeps what was found in its shards; with `resize` it is packed,
    as other sources are, and so are clips of videos. `run` writes shards and `examine` reads them, in processes of
    their choice. What was left out stands in folder/skipped.txt. Raises DataError.
    """
    if not config.source.startswith(PREFIX) or config.video is not None:
        return pack(config, folder, threads=threads, say=say, run=run)
    place = folder if config.resize is None else folder / ".indexed"
    indexes = index_webdataset(dataclasses.replace(config, resize=None), place, parts, examine, say)
    if config.resize is not None:
        label = indexes["labeled" if "labeled" in indexes else "unlabeled"].classes
        items = {name: _items(place / name, label) for name in indexes}
        indexes = pack(config, folder, threads=threads, say=say, run=run, done=Split(items, label, ()))
        if (place / SKIPPED).is_file():
            shutil.copyfile(place / SKIPPED, folder / SKIPPED)
    return indexes


def _items(folder: Path, classes: tuple[str, ...]) -> list[Item]:
    """The images of an index, to be packed anew."""
    samples = _opened(folder)
    items = []
    for number in range(len(samples)):
        label = int(samples.labels[number])
        key, read = sources.usable_key(samples.key(number)), partial(_read, folder, number)
        shard, row = (int(x[0]) for x in samples.places(np.array([number])))
        suffix = f".{samples.shards[shard].extension(row)}"
        items.append(
            Item(key, f"{samples.shards[shard].path}: {key}", suffix, classes[label] if label >= 0 else None, read)
        )
    return sources.unique(items)


@lru_cache(maxsize=4)
def _opened(folder: Path) -> Samples:
    return open_samples(folder, labels=False)


def _read(folder: Path, number: int) -> bytes:
    samples = _opened(folder)
    shard, row = (int(x[0]) for x in samples.places(np.array([number])))
    return bytes(samples.shards[shard].encoded(row))


def read_indexes(folder: Path) -> dict[str, Index]:
    """The index of each split of a finished set."""
    return {name: read_index(folder / name) for name in sources.SPLITS if (folder / name / "index.json").is_file()}
