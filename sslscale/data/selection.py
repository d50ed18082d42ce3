"""The samples that a selection of pseudo-labelled images names, joined with their pseudo-labels at read time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from sslscale.data import parquet, soft_labels
from sslscale.data.index import INDEX, read_index
from sslscale.data.order import WINDOW
from sslscale.data.samples import Samples, open_samples
from sslscale.errors import DataError
from sslscale.storage import jsonio, sums
from sslscale.storage.scratch import Local

STATS, SOURCE = "stats.json", "source"  # what a selection was made of: the SHA-256 of the shards' index
_AT_ONCE = 4  # tables that are read at a time


def source_of(unlabeled: Path) -> str:
    """What a selection keeps, to be joined with these very shards alone."""
    return sums.sha256(unlabeled / INDEX)


def open_selected(
    selection: Path, unlabeled: Path, *, seed: int, shard_size: int, local: Local | None = None
) -> Samples:
    """The samples that a selection names, with repeats, joined with their pseudo-labels.

    Their order and blocks are those of the shards that `stages.shard` writes of the same selection: random, or in the
    order of the shards where there are so many that training reads them in windows. What is held is one row of
    pseudo-labels for each image that is used, and 16 bytes or less for each sample.
    """
    stats = jsonio.read_json(sums.checked(selection / STATS))
    if stats[SOURCE] != source_of(unlabeled):
        raise DataError(f"{selection}: is a selection of other images than those of {unlabeled}; run select again")
    index = read_index(unlabeled)
    used, total = int(stats["accounting"]["used"]), int(sum(stats["after"]))
    times, row, labels = np.empty(used, np.int32), np.empty(used, np.int32), None
    bounds = np.zeros(len(index.shards) + 1, np.int64)
    files = [selection / f"selection-{number:06d}.parquet" for number in range(len(index.shards))]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for number, table in enumerate(_read_ahead(pool, files)):
            classes, probs = columns(table)
            if labels is None:
                labels = soft_labels.empty(used, len(index.classes), probs.shape[1])
            start, stop = int(bounds[number]), int(bounds[number]) + len(table)
            bounds[number + 1] = stop
            row[start:stop], times[start:stop] = table["row"].to_numpy(), table["copies"].to_numpy()
            soft_labels.fill(labels, slice(start, stop), classes, probs)
            if len(table) and row[start:stop].max() >= index.shards[number].samples:
                raise DataError(f"{files[number]}: names images that {index.shards[number].file} does not have")
    if bounds[-1] != used or labels is None:
        raise DataError(f"{selection}: holds {bounds[-1]:,} images, its {STATS} says {used:,}; remove it and run again")
    entry = np.repeat(np.arange(used, dtype=np.int32), times)
    first = np.cumsum(times, dtype=np.int64) - times
    copy = (np.arange(total, dtype=np.int64) - first[entry]).astype(np.int32)
    if total <= 2 * WINDOW:
        order = np.random.default_rng([seed, 0x5E1EC7]).permutation(np.arange(total, dtype=np.int32))
        entry, copy = entry[order], copy[order]
    shard = (np.searchsorted(bounds, entry, side="right") - 1).astype(np.int32)
    every = open_samples(unlabeled, labels=False, local=local)
    return Samples(
        every.index,
        every.shards,
        np.broadcast_to(np.int8(-1), total),
        [min(shard_size, total - start) for start in range(0, total, shard_size)],
        order=(shard, row[entry]),
        soft=labels,
        entry=entry,
        copies=copy.astype(np.min_scalar_type(int(copy.max(initial=0)))),
    )


def _read_ahead(pool: ThreadPoolExecutor, files: list[Path]) -> Iterator[Any]:
    """The tables in order, few of them at a time."""
    for start in range(0, len(files), 4 * _AT_ONCE):
        yield from pool.map(_read, files[start : start + 4 * _AT_ONCE])


def _read(file: Path) -> Any:
    names = parquet.names(file)
    return parquet.read(file, [name for name in ("row", "copies", "classes", "probs") if name in names])


def columns(table: Any) -> tuple[np.ndarray | None, np.ndarray]:
    """Classes, int (rows, k) or None for all, and probabilities (rows, k) of a table of scores or of a selection."""
    probs = table["probs"].combine_chunks()
    width = probs.type.list_size
    flat = np.asarray(probs.flatten()).reshape(-1, width)
    if "classes" not in table.column_names:
        return None, flat
    return np.asarray(table["classes"].combine_chunks().flatten()).reshape(-1, width), flat
