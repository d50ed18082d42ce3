"""Data sets that a library carries or reads: scikit-learn's digits, those of torchvision."""

from __future__ import annotations

import gzip
import importlib.util
import io
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from sslscale.data.items import Item, Listing
from sslscale.errors import DataError


def digits() -> Listing:
    """The 1,797 real handwritten digits, 8x8 gray, that scikit-learn carries in its package."""
    items = []
    for number, label in enumerate(_digits()[:, 64].tolist()):
        key = f"digits/{number:04d}"
        items.append(Item(key, key, ".png", str(label), partial(_digit, number)))
    return Listing(items, tuple(str(digit) for digit in range(10)))


@lru_cache(maxsize=1)
def _digits() -> Any:
    """Pixels and label of each digit, int64 (1797, 65)."""
    import numpy as np

    found = importlib.util.find_spec("sklearn")  # located, not imported: a plan must not wait for it
    assert found is not None and found.origin is not None
    with gzip.open(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        return np.loadtxt(file, delimiter=",", dtype=np.int64)


def _digit(row: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    image = _digits()[row, :64].reshape(8, 8) * (255 / 16)
    Image.fromarray(image.round().astype("uint8")).save(buffer, "PNG")
    return buffer.getvalue()


def torchvision_set(source: str) -> Listing:
    """`torchvision:CIFAR10:ROOT` or `torchvision:SVHN:ROOT:test`; never downloads."""
    data, name, split = _torchvision(source)
    classes = tuple(str(c).replace("/", "_") for c in getattr(data, "classes", ()))
    labels = [int(data[i][1]) for i in range(len(data))]
    classes = classes or tuple(str(label) for label in range(max(labels) + 1))
    items = []
    for i, label in enumerate(labels):
        key = f"{name}/{split}/{i:07d}"
        name_of = classes[label] if label >= 0 else None  # STL-10's unlabelled images have -1
        items.append(Item(key, key, ".png", name_of, partial(_torchvision_image, source, i)))
    return Listing(items, classes)


@lru_cache(maxsize=2)
def _torchvision(source: str) -> tuple[Any, str, str]:
    """The data set, once a process, with its name and split."""
    import torchvision.datasets

    _, name, root, *rest = [*source.split(":"), ""]
    cls = getattr(torchvision.datasets, name, None)
    if cls is None or not root:
        raise DataError(f"{source!r}: write torchvision:NAME:ROOT[:SPLIT] with a class of torchvision.datasets")
    split = rest[0] or "train"
    try:
        try:
            return cls(root, train=split == "train", download=False), name, split
        except TypeError:
            return cls(root, split=split, download=False), name, split
    except (RuntimeError, OSError, TypeError, ValueError) as error:
        raise DataError(f"{source}: {str(error).splitlines()[0]}") from None


def _torchvision_image(source: str, number: int) -> bytes:
    buffer = io.BytesIO()
    _torchvision(source)[0][number][0].save(buffer, "PNG")
    return buffer.getvalue()
