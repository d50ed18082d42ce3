"""Pseudo-label tables: what the scores and selections of a set of shards look like on disk, and as samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sslscale.data import parquet
from sslscale.data.samples import Samples, open_samples
from sslscale.errors import DataError


def probabilities(table: Any, num_classes: int) -> np.ndarray:
    """The distributions of a table of scores or of a selection, float32 (rows, num_classes).

    Where only the top classes were kept, the rest of the mass is spread evenly over the others.
    """
    probs = table["probs"].combine_chunks()
    width = probs.type.list_size
    flat = np.asarray(probs.flatten(), np.float32).reshape(-1, width)
    if "classes" not in table.column_names:
        return flat
    classes = np.asarray(table["classes"].combine_chunks().flatten()).reshape(-1, width)
    rest = np.clip(1 - flat.sum(1, keepdims=True), 0, None) / max(num_classes - width, 1)
    full = np.repeat(rest.astype(np.float32), num_classes, axis=1)
    np.put_along_axis(full, classes, flat, axis=1)
    return full


def open_selected(
    selection: Path, unlabeled: Path, *, seed: int, shard_size: int, tables: Path | None = None
) -> Samples:
    """The samples that a selection names, with repeats, in one random order, joined with their pseudo-labels.

    Their order and blocks are those of the shards that `stages.shard` writes of the same selection.
    """
    every = open_samples(unlabeled, labels=False, tables=tables)
    shards, rows, found, copies = [], [], [], []
    for number, shard in enumerate(every.shards):
        file = selection / f"selection-{number:06d}.parquet"
        table = parquet.read(file)
        row = table["row"].to_numpy()
        keys = shard.keys
        if table["key"].to_pylist() != [keys[r] for r in row]:
            raise DataError(f"{file}: its keys are not those of {shard.path}")
        times = table["copies"].to_numpy()
        shards.append(np.full(int(times.sum()), number, np.int32))
        rows.append(np.repeat(row.astype(np.int32), times))
        copies.append(np.concatenate([np.arange(t, dtype=np.int32) for t in times] or [np.empty(0, np.int32)]))
        found.append(np.repeat(probabilities(table, len(every.index.classes)), times, axis=0))
    shard, row, copy = np.concatenate(shards), np.concatenate(rows), np.concatenate(copies)
    order = np.random.default_rng([seed, 0x5E1EC7]).permutation(len(row))
    sizes = [min(shard_size, len(row) - start) for start in range(0, len(row), shard_size)]
    return Samples(
        every.index,
        every.shards,
        np.full(len(row), -1, np.int8),
        sizes,
        (shard[order], row[order]),
        table=np.concatenate(found)[order],
        copies=copy[order],
    )
