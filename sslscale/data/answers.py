"""Labels that were given to some unlabelled images of packed shards: a new set that refers to the same shards."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sslscale.data.index import INDEX, Index, ShardInfo, read_index, write_index
from sslscale.data.samples import open_images
from sslscale.data.sources import HIDDEN, SPLITS
from sslscale.errors import DataError


def read_answers(file: Path) -> dict[str, str]:
    """Key and class of each row of a CSV with the columns `key` and `label`; rows without a label are left out.

    Raises DataError for a key that stands there twice.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None
    if not rows or not {"key", "label"} <= rows[0].keys():
        raise DataError(f"{file}: has no columns `key` and `label`, as `sslscale suggest` writes them")
    found: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        label = (row["label"] or "").strip()
        if label and found.setdefault(row["key"], label) != label:
            raise DataError(f"{file}:{number}: the key {row['key']!r} has two labels")
    return found


def add_answers(source: Path, out: Path, answers: Mapping[str, str]) -> dict[str, Index]:
    """Write OUT/labeled and OUT/unlabeled as indexes of the shards of `source`, with these images labelled, and refer
    to its other splits. No image is copied. Raises DataError for a key that is no unlabelled image's, or a new class
    of a set whose labelled images name classes.
    """
    if not (source / "unlabeled" / INDEX).is_file():
        raise DataError(f"{source}: has no unlabelled images to label")
    samples = open_images(source, ("unlabeled",))
    if samples.index.frames > 1:
        raise DataError(f"{source}: holds clips of videos, which are not labelled one by one")
    numbers = {samples.key(n): n for n in range(len(samples))} if answers else {}
    unknown = [key for key in answers if key not in numbers]
    if unknown:
        raise DataError(
            f"{len(unknown):,} of {len(answers):,} keys are no unlabelled image of {source}: {unknown[0]!r}"
        )
    classes = samples.index.classes or tuple(sorted(set(answers.values())))
    strange = sorted(set(answers.values()) - set(classes))
    if strange:
        raise DataError(f"{strange[0]!r} is none of the classes of {source}: {', '.join(classes[:10])}")
    return relabel(source, out, {numbers[key]: classes.index(label) for key, label in answers.items()}, classes)


def relabel(source: Path, out: Path, labels: Mapping[int, int], classes: tuple[str, ...]) -> dict[str, Index]:
    """The same by the images' numbers in the unlabelled split, and numbers of classes."""
    unlabeled = read_index(source / "unlabeled")
    found = np.full(unlabeled.num_samples, -1, np.int64)
    if labels:
        found[np.array(list(labels))] = list(labels.values())
    parts = [_entries(unlabeled, source / "unlabeled", found, found >= 0)]
    if (source / "labeled" / INDEX).is_file():
        known = read_index(source / "labeled")
        parts.insert(0, _entries(known, source / "labeled", known.labels, np.ones(known.num_samples, bool)))
    rest = _entries(unlabeled, source / "unlabeled", np.full(len(found), -1), found < 0)
    indexes = {"labeled": _write(out / "labeled", unlabeled, parts, classes)}
    if rest:
        indexes["unlabeled"] = _write(out / "unlabeled", unlabeled, [rest], classes)
        if (source / "unlabeled" / HIDDEN).is_file():
            hidden = np.load(source / "unlabeled" / HIDDEN, allow_pickle=False)
            np.save(out / "unlabeled" / HIDDEN, hidden[found < 0])
    for split in SPLITS:
        if split not in ("labeled", "unlabeled") and (source / split / INDEX).is_file():
            os.symlink((source / split).resolve(), out / split)
            indexes[split] = read_index(out / split)
    return indexes


_Entry = tuple[ShardInfo, np.ndarray, np.ndarray]  # a shard, and the rows of it with their labels


def _entries(index: Index, folder: Path, labels: np.ndarray, chosen: np.ndarray) -> list[_Entry]:
    found = []
    for number, info in enumerate(index.shards):
        part = slice(int(index.starts[number]), int(index.starts[number + 1]))
        own = index.rows(number)
        rows = np.arange(info.samples) if own is None else np.asarray(own)
        mine = chosen[part]
        if mine.any():
            place = info.url or str((folder / info.file).resolve())
            whole = info._replace(url=place, images=info.images or info.samples)
            found.append((whole, rows[mine], labels[part][mine]))
    return found


def _write(folder: Path, like: Index, parts: list[list[_Entry]], classes: tuple[str, ...]) -> Index:
    """One entry a shard, whatever number of splits it was in."""
    merged: dict[str, list[_Entry]] = {}
    for part in parts:
        for entry in part:
            merged.setdefault(entry[0].url, []).append(entry)
    infos, rows, labels = [], [], []
    for entries in merged.values():
        own = np.concatenate([entry[1] for entry in entries])
        order = np.argsort(own)
        rows.append(own[order])
        labels.append(np.concatenate([entry[2] for entry in entries])[order])
        infos.append(entries[0][0]._replace(samples=len(own)))
    folder.mkdir(parents=True, exist_ok=True)
    return write_index(
        folder, infos, classes, np.concatenate(labels), np.concatenate(rows), prefixed=like.prefixed, pixels=like.pixels
    )
