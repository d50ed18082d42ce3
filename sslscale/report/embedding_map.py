"""A map of images by their features: t-SNE (van der Maaten & Hinton 2008) in the plane, with the images on hover."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sslscale.report import page
from sslscale.report.thumbnails import Thumbnails, data_uri

POINTS = 1200  # more take longer than a reader of a report waits
_SIDE, _ACROSS = 40, 40  # of a thumbnail in pixels, and thumbnails side by side


def places(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """Positions in the unit square, float32 (n, 2)."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    if unit.shape[1] > 32 and len(unit) > 32:
        unit = PCA(32, random_state=seed).fit_transform(unit)
    perplexity = min(30.0, max((len(unit) - 1) / 4, 1.0))
    model = TSNE(init="pca", perplexity=perplexity, max_iter=500, random_state=seed, n_jobs=-1)
    found = model.fit_transform(unit)
    low, high = found.min(0), found.max(0)
    return ((found - low) / np.maximum(high - low, 1e-9)).astype(np.float32)


def embedding_map(features: np.ndarray, numbers: np.ndarray, pictures: Thumbnails) -> str:
    """The map as a part of a page. `numbers` are those of the images whose features are the rows."""
    index = pictures.index
    labels = [int(index.labels[n]) if index.has_labels else -1 for n in numbers.tolist()]
    sheet = Image.new("RGB", (_SIDE * _ACROSS, _SIDE * -(-len(numbers) // _ACROSS)))
    for place, number in enumerate(numbers.tolist()):
        thumbnail = pictures.image(number).resize((_SIDE, _SIDE))
        sheet.paste(thumbnail, (_SIDE * (place % _ACROSS), _SIDE * (place // _ACROSS)))
    values: dict[str, Any] = {
        "points": np.round(places(features), 4).tolist(),
        "labels": labels,
        "classes": _names(index.classes, labels),
        "side": _SIDE,
        "across": _ACROSS,
    }
    text = json.dumps(values).replace("<", "\\u003c")  # no name ends the script
    return page.fragment("map.html", values=text, sheet=data_uri(sheet, 60), classes=values["classes"])


def _names(classes: Sequence[str], labels: Sequence[int]) -> list[str]:
    used = max(labels, default=-1) + 1
    return list(classes[:used])


def sample_features(folder: Path, split: str, most: int, shards: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of at most so many images of a split's first shards, evenly spread, and the images' numbers."""
    files = sorted((folder / split).glob("features-*.npy"))[:shards]
    rows = [np.load(file, mmap_mode="r", allow_pickle=False) for file in files]
    starts = np.cumsum([0, *(len(part) for part in rows)])
    numbers = np.unique(np.linspace(0, starts[-1] - 1, min(most, int(starts[-1]))).astype(int))
    place = np.searchsorted(starts, numbers, side="right") - 1
    found = np.stack([rows[p][n - starts[p]] for p, n in zip(place.tolist(), numbers.tolist(), strict=True)])
    return found.astype(np.float32), numbers
