"""Where images come from: an image folder, a CSV manifest, a torchvision data set, scikit-learn's digits.

Each source is listed as items (a key, a label or none, and how to get the bytes), so that splitting and labelling
are the same for all. Nothing here decodes an image or knows torch.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sslscale import jsonio, mirror
from sslscale.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SPLITS = ("labeled", "unlabeled", "val", "test")
HIDDEN = "hidden_labels.npy"
PACKED = ("index.json", HIDDEN)  # what a split has beside its shards
HASHED_BYTES = 2 << 30  # a larger folder is identified by names, sizes and times instead of its content


class Item(NamedTuple):
    """One image of a source. `where` names it for people; `label` is the class's name or None."""

    key: str
    where: str
    suffix: str
    label: str | None
    read: Callable[[], bytes]


class Listing(NamedTuple):
    """Everything a source holds, with its classes in the order of their label."""

    items: list[Item]
    classes: tuple[str, ...]


def list_source(source: str) -> Listing:
    """List `digits`, `torchvision:NAME:ROOT[:SPLIT]`, a .csv manifest or a folder; raises DataError."""
    if mirror.is_url(source):
        raise DataError(f"{source}: no packed images there; pack them where they lie: sslscale data pack SRC {source}")
    if source == "digits":
        return digits()
    if source.startswith("torchvision:"):
        return torchvision_set(source)
    path = Path(source)
    if path.suffix == ".csv":
        return manifest(path)
    return folder(path)


def is_packed(source: str) -> bool:
    """Whether the source is a folder that `sslscale data pack` wrote."""
    return any((here(source) / split / "index.json").is_file() for split in ("labeled", "unlabeled"))


def here(source: str) -> Path:
    """A source's folder; of a URL one that mirrors its shards, of which only the indexes are here at first."""
    names = [f"{split}/{name}" for split in SPLITS for name in PACKED]
    return mirror.local(source, ["index.json", *names])


def beside(source: str, share: str) -> str:
    """Where a split's folder is: inside the source, or a path of its own."""
    inside = Path(source) / share
    return str(inside) if inside.is_dir() else share


def folder(root: Path) -> Listing:
    """Images below a folder. With sub-folders and no loose images, each sub-folder is a class."""
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder")
    loose = any(entry.is_file() and entry.name.lower().endswith(SUFFIXES) for entry in os.scandir(root))
    classes = [] if loose else sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    items = []
    for path in _images(root):
        relative = path.relative_to(root)
        label = relative.parts[0] if classes else None
        items.append(_file_item(path, relative, label))
    if not items:
        raise DataError(f"{root}: no images there ({', '.join(SUFFIXES)})")
    empty = sorted(set(classes) - {item.label for item in items if item.label})
    if empty:
        raise DataError(f"{root / empty[0]}: a class folder without images; remove it or fill it")
    return Listing(_unique(items), tuple(classes))


def manifest(path: Path) -> Listing:
    """A CSV with the columns path (relative to the CSV) and label (empty for an unlabelled image)."""
    items = []
    for number, file, label in _csv_rows(path):
        if not file.is_file():
            raise DataError(f"{path}:{number}: there is no image {file}")
        relative = file.relative_to(path.parent) if file.is_relative_to(path.parent) else Path(*file.parts[1:])
        items.append(_file_item(file, relative, label or None))
    if not items:
        raise DataError(f"{path}: no rows below its header")
    return Listing(_unique(items), tuple(sorted({item.label for item in items if item.label})))


def read_labels(path: Path, root: Path) -> dict[str, str]:
    """Labels by image path from a CSV whose paths are relative to `root` (or to the CSV); raises DataError."""
    labels: dict[str, str] = {}
    for number, file, label in _csv_rows(path, root):
        if not label:
            raise DataError(f"{path}:{number}: {file} has no label")
        name = str(file.resolve())
        if labels.setdefault(name, label) != label:
            raise DataError(f"{path}:{number}: {file} is labelled both {labels[name]!r} and {label!r}")
    if not labels:
        raise DataError(f"{path}: no rows below its header")
    return labels


def _csv_rows(path: Path, root: Path | None = None) -> Iterator[tuple[int, Path, str]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = {name.strip().lower(): name for name in reader.fieldnames or ()}
            if not {"path", "label"} <= names.keys():
                raise DataError(f"{path}: the first line must name the columns path and label, not {list(names)}")
            for row in reader:
                name, label = row[names["path"]], row[names["label"]]
                if not name:
                    raise DataError(f"{path}:{reader.line_num}: an empty path")
                candidates = [base / name for base in (root, path.parent) if base is not None]
                found = next((c for c in candidates if c.is_file()), None)
                if found is None:
                    raise DataError(f"{path}:{reader.line_num}: there is no image {candidates[0]}")
                yield reader.line_num, found, (label or "").strip()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason})") from None


def digits() -> Listing:
    """The 1,797 real handwritten digits, 8x8 gray, that scikit-learn carries in its package."""
    from PIL import Image
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    items = []
    for number, (image, label) in enumerate(zip(data.images, data.target, strict=True)):
        buffer = io.BytesIO()
        Image.fromarray((image * (255 / 16)).round().astype("uint8")).save(buffer, "PNG")
        key = f"digits/{number:04d}"
        items.append(Item(key, key, ".png", str(label), partial(bytes, buffer.getvalue())))
    return Listing(items, tuple(str(digit) for digit in range(10)))


def torchvision_set(source: str) -> Listing:
    """`torchvision:CIFAR10:ROOT` or `torchvision:SVHN:ROOT:test`; never downloads."""
    import torchvision.datasets

    _, name, root, *rest = [*source.split(":"), ""]
    cls = getattr(torchvision.datasets, name, None)
    if cls is None or not root:
        raise DataError(f"{source!r}: write torchvision:NAME:ROOT[:SPLIT] with a class of torchvision.datasets")
    split = rest[0] or "train"
    try:
        try:
            data = cls(root, train=split == "train", download=False)
        except TypeError:
            data = cls(root, split=split, download=False)
    except (RuntimeError, OSError, TypeError, ValueError) as error:
        raise DataError(f"{source}: {str(error).splitlines()[0]}") from None
    classes = tuple(str(c).replace("/", "_") for c in getattr(data, "classes", ()))
    labels = [int(data[i][1]) for i in range(len(data))]
    classes = classes or tuple(str(label) for label in range(max(labels) + 1))

    def encode(index: int) -> bytes:
        buffer = io.BytesIO()
        data[index][0].save(buffer, "PNG")
        return buffer.getvalue()

    items = []
    for i, label in enumerate(labels):
        key = f"{name}/{split}/{i:07d}"
        items.append(Item(key, key, ".png", classes[label], partial(encode, i)))
    return Listing(items, classes)


def _images(root: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(parent, name)


def _file_item(path: Path, relative: Path, label: str | None) -> Item:
    stem = relative.with_suffix("").as_posix()
    key = re.sub(r"[^A-Za-z0-9_\-/]", "_", stem).strip("/") or "image"
    if len(key) > 180:
        key = f"{key[:150]}-{hashlib.sha256(stem.encode()).hexdigest()[:16]}"
    return Item(key, str(path), path.suffix.lower(), label, path.read_bytes)


def _unique(items: list[Item]) -> list[Item]:
    """Give files whose names differ only in what a key cannot hold (a.jpg and a.png) keys of their own."""
    seen: set[str] = set()
    result = []
    for item in items:
        key = item.key
        if key in seen:
            key = f"{key}-{hashlib.sha256(item.where.encode()).hexdigest()[:8]}"
        seen.add(key)
        result.append(item._replace(key=key))
    return result


# --- identity of what lies outside the root ------------------------------------------------------------------


def fingerprint(source: str, root: Path) -> str:
    """Hash the content of a source. Contents are read once: sizes and times tell whether to read them again.

    A folder over 2 GiB is identified by the names, sizes and times of its files.
    """
    if source == "digits":
        return "digits"
    if source.startswith("torchvision:"):
        name, place, *rest = source.split(":")[1:]
        return jsonio.digest(["torchvision", name, rest, fingerprint(place, root)])
    path = here(source)
    if is_packed(source):
        indexes = sorted(path.glob("*/index.json"))
        return jsonio.digest([[file.parent.name, file_hash(file)] for file in indexes])
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    if mirror.is_url(source):
        list_source(source)
    if path.is_file():
        base, files = path.parent, [path]
        if path.suffix == ".csv":
            files += [file for _, file, _ in _csv_rows(path)]
    else:
        base, files = path, list(_images(path))
    stats = [(os.path.relpath(file, base), file.stat()) for file in files]
    signature = jsonio.digest([[name, s.st_size, s.st_mtime_ns] for name, s in stats], 32)
    if sum(s.st_size for _, s in stats) > HASHED_BYTES:
        return signature
    store = root / "cache" / "fingerprints.json"
    known = jsonio.read_json(store) if store.exists() else {}
    if signature not in known:
        names = [name for name, _ in stats]
        known[signature] = jsonio.digest([[n, file_hash(f)] for n, f in zip(names, files, strict=True)], 32)
        if root.is_dir():
            store.parent.mkdir(parents=True, exist_ok=True)
            jsonio.write_json(store, known)
    return known[signature]


def file_hash(path: Path) -> str:
    """SHA-256 of one file; raises DataError if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
