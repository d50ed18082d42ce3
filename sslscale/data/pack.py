"""Split the images of a source into labeled, unlabeled, val and test, and write each split as shards."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sslscale.data import decode, shards, sources
from sslscale.data.images import bad_allowed
from sslscale.data.sources import HIDDEN, Item, Listing
from sslscale.errors import DataError
from sslscale.recipes.data import PackConfig


def pack(config: PackConfig, folder: Path, *, threads: int = 1) -> dict[str, shards.Index]:
    """Pack `config.source` into folder/labeled, unlabeled, val and test; returns the index of each.

    Images keep their encoded bytes unless `resize` is set or their format is none of jpg, png and webp. Every image is
    decoded once to find the bad ones while their file's name is known.
    """
    listing = sources.list_source(config.source)
    parts = split(config, listing)
    indexes = {}
    bad: list[str] = []
    total = sum(len(items) for items in parts.values())
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for name, items in parts.items():
            hidden: list[int] | None = [] if name == "unlabeled" else None
            samples = _samples(config, items, listing.classes, pool, bad, total, hidden)
            indexes[name] = shards.write_shards(folder / name, name, samples, listing.classes, config.shard_size)
            if hidden is not None and config.keep_hidden_labels:
                np.save(folder / name / HIDDEN, np.array(hidden, np.int32))
    if bad:
        (folder / "skipped.txt").write_text("\n".join(bad) + "\n", "utf-8")
    return indexes


def split(config: PackConfig, listing: Listing) -> dict[str, list[Item]]:
    """Decide each item's split. The test and val splits do not depend on the seed; the labelled subset does."""
    items, classes = listing.items, listing.classes
    if config.labels is not None:
        items, classes = _label_by_file(config, items)
    parts: dict[str, list[Item]] = {}
    for name, share in (("test", config.test), ("val", config.val)):
        if isinstance(share, str):
            held = sources.list_source(sources.beside(config.source, share))
            unknown = sorted({item.label for item in held.items if item.label} - set(classes))
            if unknown:
                raise DataError(f"{share}: the class {unknown[0]!r} is not a class of {config.source}")
            if any(item.label is None for item in held.items):
                raise DataError(f"{share}: its images have no classes; {name} images need labels")
            parts[name] = held.items
        elif share:
            items, parts[name] = _hold_out(items, share, name)
    known = [item for item in items if item.label is not None]
    if config.labels_per_class is not None:
        labeled = []
        for label in classes:
            mine = sorted((i for i in known if i.label == label), key=lambda i: _order(i, f"label{config.seed}"))
            if len(mine) < config.labels_per_class:
                raise DataError(
                    f"{config.source}: class {label!r} has {len(mine)} images, "
                    f"fewer than labels_per_class={config.labels_per_class}"
                )
            labeled += mine[: config.labels_per_class]
    else:
        labeled = known
    chosen = {item.key for item in labeled}
    parts["labeled"] = labeled
    parts["unlabeled"] = [item for item in items if item.key not in chosen]
    if not labeled:
        raise DataError(f"{config.source}: no labelled image; give class folders or a labels file")
    for label in classes:
        if not any(item.label == label for item in labeled):
            raise DataError(f"{config.source}: class {label!r} has no labelled image left for training")
    return {name: sorted(items, key=lambda i: _order(i, "shard")) for name, items in sorted(parts.items()) if items}


def _label_by_file(config: PackConfig, items: list[Item]) -> tuple[list[Item], tuple[str, ...]]:
    assert config.labels is not None
    labels = sources.read_labels(Path(config.labels), Path(config.source))
    labeled = [item._replace(label=labels.pop(str(Path(item.where).resolve()), None)) for item in items]
    if labels:
        raise DataError(f"{config.labels}: {next(iter(labels))} is not below {config.source}")
    return labeled, tuple(sorted({item.label for item in labeled if item.label}))


def _hold_out(items: list[Item], share: float, name: str) -> tuple[list[Item], list[Item]]:
    """Hold out a share of each class's labelled images, the same ones whatever the seed."""
    by_class: dict[str, list[Item]] = {}
    for item in items:
        if item.label is not None:
            by_class.setdefault(item.label, []).append(item)
    held: set[str] = set()
    for mine in by_class.values():
        mine.sort(key=lambda i: _order(i, name))
        held.update(item.key for item in mine[: max(round(len(mine) * share), 1)])
    return [i for i in items if i.key not in held], [i for i in items if i.key in held]


def _order(item: Item, salt: str) -> bytes:
    return hashlib.sha256(f"{salt}:{item.key}".encode()).digest()


def _samples(
    config: PackConfig,
    items: list[Item],
    classes: tuple[str, ...],
    pool: ThreadPoolExecutor,
    bad: list[str],
    total: int,
    hidden: list[int] | None,
) -> Iterator[shards.Sample]:
    """The images with their labels; with `hidden` these go there instead, in the order of the images."""
    label_of = {name: number for number, name in enumerate(classes)}
    for start in range(0, len(items), 512):
        chunk = items[start : start + 512]
        for item, result in zip(chunk, pool.map(lambda i: _encode(i, config.resize), chunk), strict=True):
            if isinstance(result, DataError):
                if config.on_bad_sample == "error":
                    raise DataError(f"{item.where}: {result}; --on-bad-sample skip leaves such images out")
                bad.append(f"{item.where}: {result}")
                if len(bad) > bad_allowed(config.on_bad_sample, total):
                    raise DataError(f"{len(bad)} bad images are over 1 % of {total:,}; the last: {bad[-1]}")
                continue
            data, extension = result
            label = label_of.get(item.label or "", -1)
            if hidden is not None:
                hidden.append(label)
            yield shards.Sample(item.key, data, extension, -1 if hidden is not None else label)


def _encode(item: Item, resize: int | None) -> tuple[bytes, str] | DataError:
    try:
        data = item.read()
        image = decode.decode(data)
    except OSError as error:
        return DataError(f"cannot be read: {error.strerror}")
    except DataError as error:
        return error
    extension = item.suffix.lstrip(".")
    if resize is not None and min(image.shape[-2:]) > resize:
        height, width = image.shape[-2:]
        scale = resize / min(height, width)
        image = decode.resize(image, (round(height * scale), round(width * scale)))
    elif extension in shards.IMAGE_TYPES:
        return data, extension
    buffer = io.BytesIO()
    lossy = extension in ("jpg", "jpeg", "webp")
    pixels = image.permute(1, 2, 0).contiguous().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(buffer, "JPEG" if lossy else "PNG", **({"quality": 95} if lossy else {}))
    return buffer.getvalue(), "jpg" if lossy else "png"
