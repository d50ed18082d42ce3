"""Galleries of real images: what is in the data, what was pseudo-labelled, where a network errs, what lies together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sslscale.report import page
from sslscale.report.page import Tile
from sslscale.report.thumbnails import Thumbnails
from sslscale.storage.scratch import Local

SHARDS = 20  # of a large set: the first ones stand for all, or a report would read everything again
_CLASSES, _EACH = 10, 8


def data_gallery(data: Path, splits: Sequence[str], local: Local) -> Iterator[str]:
    """Some images of each class, and some without a label."""
    for split in splits:
        pictures = Thumbnails(data / split, local)
        index = pictures.index
        labels = index.labels[: _first(index)] if index.has_labels else np.full(_first(index), -1)
        rows: list[tuple[str, list[Tile]]] = []
        for number in np.unique(labels)[: _CLASSES + 1].tolist():
            chosen = np.flatnonzero(labels == number)[:_EACH].tolist()
            name = index.classes[number] if number >= 0 else "no label"
            rows.append((name, [Tile(pictures.uri(n), pictures.key(n)) for n in chosen]))
        more = f"; {_CLASSES} of {len(index.classes)} classes" if len(index.classes) > _CLASSES else ""
        yield page.gallery(f"{split}: {index.num_samples:,} images{more}", rows)


def pseudo_gallery(scores: Path, data: Path, local: Local) -> Iterator[str]:
    """The most and the least confident pseudo-labels of each class."""
    pictures = Thumbnails(data / "unlabeled", local)
    found = read_scores(scores, len(pictures.index.shards))
    if found is None:
        return
    label, confidence = found
    classes = pictures.index.classes
    most, least = [], []
    for number in np.unique(label)[:_CLASSES].tolist():
        mine = np.flatnonzero(label == number)
        order = mine[np.argsort(-confidence[mine], kind="stable")]
        for rows, chosen in ((most, order[:_EACH]), (least, order[::-1][:_EACH])):
            tiles = [Tile(pictures.uri(n), f"{confidence[n]:.2f}", pictures.key(n)) for n in chosen.tolist()]
            rows.append((classes[number], tiles))
    yield page.gallery("Most confident", most)
    yield page.gallery("Least confident", least)


def changed_gallery(first: Path, last: Path, data: Path, local: Local) -> Iterator[str]:
    """Images to which the last teacher gives another class than the first, the most certain changes first."""
    pictures = Thumbnails(data / "unlabeled", local)
    count = len(pictures.index.shards)
    before, after = read_scores(first, count), read_scores(last, count)
    if before is None or after is None or len(before[0]) != len(after[0]):
        return
    changed = np.flatnonzero(before[0] != after[0])
    order = changed[np.argsort(-np.minimum(before[1], after[1])[changed], kind="stable")][: 3 * _EACH]
    classes = pictures.index.classes
    tiles = [
        Tile(
            pictures.uri(n),
            f"{classes[before[0][n]]} {before[1][n]:.2f} → {classes[after[0][n]]} {after[1][n]:.2f}",
            pictures.key(n),
        )
        for n in order.tolist()
    ]
    share = len(changed) / max(len(before[0]), 1)
    yield page.gallery(
        f"Between the first and the last round {len(changed):,} labels changed ({share:.1%})", [("", tiles)]
    )


def read_scores(folder: Path, shards: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The class and confidence of the images of the first shards."""
    import pyarrow.parquet as parquet

    labels, confidences = [], []
    for number in range(min(shards, SHARDS)):
        file = folder / f"scores-{number:06d}.parquet"
        if not file.exists():
            return None
        table = parquet.read_table(file, columns=["label", "confidence"])
        labels.append(table["label"].to_numpy())
        confidences.append(table["confidence"].to_numpy())
    return np.concatenate(labels), np.concatenate(confidences)


def mistakes_gallery(evaluation: Path, split: Path, local: Local) -> Iterator[str]:
    """The wrong predictions that the network is surest of."""
    file = evaluation / "predictions.npy"
    if not file.exists():
        return
    rows = np.load(file, allow_pickle=False)
    pictures = Thumbnails(split, local)
    if len(rows) != pictures.index.num_samples:
        return
    wrong = np.flatnonzero(rows["label"] != rows["predicted"])
    order = wrong[np.argsort(-rows["confidence"][wrong], kind="stable")][: 3 * _EACH]
    classes = pictures.index.classes
    tiles = [
        Tile(
            pictures.uri(n),
            f"{classes[rows['label'][n]]}, taken for {classes[rows['predicted'][n]]} ({rows['confidence'][n]:.2f})",
            pictures.key(n),
        )
        for n in order.tolist()
    ]
    yield page.gallery(f"{len(wrong):,} of {len(rows):,} images are wrong; the surest mistakes first", [("", tiles)])


def neighbour_gallery(features: np.ndarray, numbers: np.ndarray, pictures: Thumbnails) -> Iterator[str]:
    """Some images, each with those whose features are nearest (cosine)."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    asked = np.linspace(0, len(unit) - 1, min(_EACH, len(unit))).astype(int)
    rows = []
    for one in np.unique(asked).tolist():
        near = np.argsort(-(unit @ unit[one]), kind="stable")
        tiles = [
            Tile(pictures.uri(int(numbers[n])), _label(pictures, int(numbers[n]))) for n in near[: _EACH + 1].tolist()
        ]
        rows.append(("", tiles))
    yield page.gallery("The first image of each row, and its nearest neighbours", rows)


def cluster_gallery(clusters: Path, features: Any, splits: Sequence[str], data: Path, local: Local) -> Iterator[str]:
    """The images nearest to the centres of the largest clusters."""
    centroids = np.load(clusters / "centroids.npy", allow_pickle=False).astype(np.float32)
    split = splits[-1]
    files = sorted((clusters / split).glob("clusters-*.npy"))[:SHARDS]
    assigned = np.concatenate([np.load(file, allow_pickle=False) for file in files])
    rows = np.concatenate([np.asarray(features.file(n), np.float32) for n in range(len(files))])
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    pictures, shown = Thumbnails(data / split, local), []
    counts = np.bincount(assigned, minlength=len(centroids))
    for number in np.argsort(-counts, kind="stable")[:16].tolist():
        mine = np.flatnonzero(assigned == number)
        near = mine[np.argsort(-(unit[mine] @ centroids[number]), kind="stable")][: _EACH + 1]
        tiles = [Tile(pictures.uri(n), _label(pictures, n), pictures.key(n)) for n in near.tolist()]
        shown.append((f"{number}: {counts[number]:,} images", tiles))
    yield page.gallery(f"{min(16, len(centroids))} of {len(centroids)} clusters, the largest first", shown)


def _label(pictures: Thumbnails, number: int) -> str:
    index = pictures.index
    label = int(index.labels[number]) if index.has_labels else -1
    return index.classes[label] if label >= 0 else ""


def _first(index: Any) -> int:
    """How many samples the first shards hold."""
    return int(index.starts[min(SHARDS, len(index.shards))])
