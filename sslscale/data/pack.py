"""Write the images of a source as shards: labeled, unlabeled, val and test."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sslscale.data import decode, shards, sources
from sslscale.data.images import bad_allowed
from sslscale.data.index import Index
from sslscale.data.sources import HIDDEN, Item
from sslscale.data.split import split
from sslscale.data.write import Sample, write_shards
from sslscale.errors import DataError
from sslscale.settings.data import PackConfig

_LISTED = 200  # bad images that an error names


def pack(
    config: PackConfig, folder: Path, *, threads: int = 1, say: Callable[[str], None] = lambda line: None
) -> dict[str, Index]:
    """Pack `config.source` into folder/labeled, unlabeled, val and test; returns the index of each.

    Images keep their encoded bytes unless `resize` is set or their format is none of jpg, png and webp. Every image is
    decoded once, so that all bad ones are named by their files: as an error, or with `on_bad_sample: skip` in
    folder/skipped.txt. `say` is told what became of the rows of a labels file and what was passed over.
    """
    done = split(config, sources.list_source(config.source))
    for note in done.notes:
        say(note)
    indexes = {}
    bad: list[str] = []
    total = sum(len(items) for items in done.parts.values())
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for name, items in done.parts.items():
            hidden: list[int] | None = [] if name == "unlabeled" else None
            samples = _samples(config, items, done.classes, pool, bad, hidden)
            indexes[name] = write_shards(folder / name, name, samples, done.classes, config.shard_size)
            if hidden is not None and config.keep_hidden_labels:
                np.save(folder / name / HIDDEN, np.array(hidden, np.int32))
    if len(bad) > bad_allowed(config.on_bad_sample, total):
        raise DataError(_unusable_images_error(config, bad, total))
    if bad:
        (folder / "skipped.txt").write_text("\n".join(bad) + "\n", "utf-8")
        say(f"{len(bad):,} of {total:,} images left out, as skipped.txt lists them; the first: {bad[0]}")
    return indexes


def _unusable_images_error(config: PackConfig, bad: list[str], total: int) -> str:
    """All bad images, and what to do."""
    lines = "\n".join(f"  {line}" for line in bad[:_LISTED])
    more = f"\n  ... and {len(bad) - _LISTED:,} more" if len(bad) > _LISTED else ""
    if config.on_bad_sample == "error":
        advice = "mend or remove them, or leave them out by --on-bad-sample skip (data.on_bad_sample: skip)"
    else:
        advice = "on_bad_sample: skip leaves out 1 % at most"
    return f"{len(bad):,} of {total:,} images cannot be used; {advice}:\n{lines}{more}"


def _samples(
    config: PackConfig,
    items: list[Item],
    classes: tuple[str, ...],
    pool: ThreadPoolExecutor,
    bad: list[str],
    hidden: list[int] | None,
) -> Iterator[Sample]:
    """The images with their labels; with `hidden` these go there instead, in the order of the images."""
    label_of = {name: number for number, name in enumerate(classes)}
    for start in range(0, len(items), 512):
        chunk = items[start : start + 512]
        for item, result in zip(chunk, pool.map(lambda i: _encode(i, config.resize), chunk), strict=True):
            if isinstance(result, DataError):
                bad.append(f"{item.where}: {result}")
                continue
            data, extension = result
            label = label_of.get(item.label or "", -1)
            if hidden is not None:
                hidden.append(label)
            yield Sample(item.key, data, extension, -1 if hidden is not None else label)


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
