"""Write the images of a source as shards: labeled, unlabeled, val and test."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from sslscale.data import channels, decode, shard
from sslscale.data.index import Index, shard_info, write_index
from sslscale.data.limits import SKIPPED, require_few_bad
from sslscale.data.sources import HIDDEN, Item
from sslscale.data.split import Split, listing, split
from sslscale.data.threads import pool
from sslscale.data.write import Sample, batched, write_shard
from sslscale.errors import DataError
from sslscale.settings.data import PackConfig
from sslscale.settings.pixels import RGB, PixelConfig
from sslscale.storage import jsonio


class Task(NamedTuple):
    """One shard to write, and the images that go into it."""

    split: str
    number: int
    items: list[Item]

    def note(self, folder: Path) -> Path:
        """What is kept of it until the index is written: that it is done, its labels, its unusable images."""
        return folder / self.split / f"{self.split}-{self.number:06d}.json"


class Encoded(NamedTuple):
    """An image for a shard: its bytes, their format, height and width, and whether most of it is clipped."""

    data: bytes
    extension: str
    shape: tuple[int, int]
    clipped: bool = False


Write = Callable[[Task], int]
Run = Callable[
    [Callable[[int], Write], Sequence[Task]], None
]  # calls what the first makes, given threads, for each task


def pack(
    config: PackConfig,
    folder: Path,
    *,
    threads: int = 1,
    say: Callable[[str], None] = lambda line: None,
    run: Run | None = None,
    done: Split | None = None,
) -> dict[str, Index]:
    """Pack `config.source` into folder/labeled, unlabeled, val and test; returns the index of each.

    Images keep their encoded bytes unless `resize` is set or their format is none of jpg, png and webp; of other pixels
    than 8-bit RGB they may be TIFFs and arrays too, and are written again as arrays. Every image is decoded, so that
    all bad ones are named by their files: as an error, or with `on_bad_sample: skip` in folder/skipped.txt. `say` is
    told what became of the rows of a labels file and what was passed over. `run` writes the shards, by default in this
    process; the same bytes whoever writes which. Shards that an interrupted packing of the same source into this folder
    wrote are kept. `done` are the images by split, if they are not to be listed.
    """
    done = done or split(config, listing(config, config.source, config.captions))
    for note in done.notes:
        say(note)
    frames = frames_of(config)
    size = max(config.shard_size // frames, 1) * frames  # no clip is in two shards
    every = [Task(name, n, items) for name, mine in done.parts.items() for n, items in _parts(mine, size)]
    waiting = [task for task in every if not task.note(folder).exists()]
    for name in done.parts:
        (folder / name).mkdir(parents=True, exist_ok=True)
    make = partial(make_writer, config, done.classes, folder)
    if run is not None:
        run(make, waiting)
    else:
        write = make(threads)
        for task in waiting:
            write(task)
    return _finish(config, folder, done, every, say)


def frames_of(config: PackConfig) -> int:
    """How many images after one another are one sample: the frames of a clip, else 1."""
    return config.video.frames if config.video is not None else 1


def _parts(items: list[Item], size: int) -> Iterator[tuple[int, list[Item]]]:
    return ((start // size, items[start : start + size]) for start in range(0, len(items), size))


def make_writer(config: PackConfig, classes: tuple[str, ...], folder: Path, threads: int) -> Write:
    """The function that writes one shard, with `threads` threads, and returns how many images it holds."""
    label_of = {name: number for number, name in enumerate(classes)}
    workers = pool("pack", max(threads, 1))

    def write(task: Task) -> int:
        labels, bad, clipped = [], [], []
        hide = task.split == "unlabeled"

        def sample(item: Item, result: Encoded) -> Sample:
            data, extension, shape, _ = result
            label = label_of.get(item.label or "", -1)
            return Sample(
                item.key,
                data,
                extension,
                -1 if hide else label,
                shape=shape,
                caption=None if item.caption is None or (hide and config.lines) else item.caption(),
                sound=None if item.sound is None else item.sound(),
                objects=None if item.objects is None else item.objects(shape),
            )

        def samples() -> Iterator[Sample]:
            encoded = zip(task.items, _encoded(workers, task.items, config), strict=True)
            for whole in batched(encoded, frames_of(config)):  # of a clip with a bad frame nothing is kept
                wrong = next((f"{item.where}: {result}" for item, result in whole if isinstance(result, str)), None)
                good: list[Sample] = []
                try:
                    good = [sample(item, result) for item, result in whole if not isinstance(result, str)]
                except DataError as error:  # of its sound or its objects
                    wrong = wrong or str(error)
                if wrong is not None:
                    bad.append(wrong)
                    continue
                clipped.extend(item.where for item, result in whole if not isinstance(result, str) and result.clipped)
                labels.extend(label_of.get(item.label or "", -1) for item, _ in whole)
                yield from good

        file = task.note(folder).with_suffix(".tar")
        info = write_shard(file, samples())
        if not info.samples:
            file.unlink()
        note = {"info": info._asdict(), "labels": labels, "bad": bad, "clipped": len(clipped), "first": clipped[:1]}
        jsonio.write_json(task.note(folder), note)
        return info.samples

    return write


def _encoded(workers: ThreadPoolExecutor, items: Sequence[Item], config: PackConfig) -> Iterator[Encoded | str]:
    """What goes into the shard for each item, in order, with few of them waiting in memory."""
    for start in range(0, len(items), _AHEAD):
        yield from workers.map(lambda item: _encode(item, config.resize, config.decoded), items[start : start + _AHEAD])


_AHEAD = 64
_MOSTLY = 0.5  # of an image's numbers outside the range: worth telling


def _finish(
    config: PackConfig, folder: Path, done: Split, every: Sequence[Task], say: Callable[[str], None]
) -> dict[str, Index]:
    """Write the indexes of what was written."""
    notes = [(task.split, jsonio.read_json(task.note(folder))) for task in every]
    bad = [line for _, note in notes for line in note["bad"]]
    total = sum(len(task.items) for task in every) // frames_of(config)
    require_few_bad(config.on_bad_sample, bad, total)
    clipped = sum(note.get("clipped", 0) for _, note in notes)
    if clipped:
        first = next(note["first"][0] for _, note in notes if note.get("first"))
        say(f"{clipped:,} of {total:,} images lie outside image.range by more than half; the first: {first}")
    indexes = {}
    for name in done.parts:
        mine = [note for split_name, note in notes if split_name == name]
        infos = [shard_info(note["info"]) for note in mine if note["info"]["samples"]]
        known = np.array([label for note in mine for label in note["labels"]], np.int64)
        hide = name == "unlabeled"
        if hide and config.keep_hidden_labels:
            np.save(folder / name / HIDDEN, known.astype(np.int32))
        visible = np.full(len(known), -1) if hide else known
        indexes[name] = write_index(
            folder / name, infos, done.classes, visible, frames=frames_of(config), pixels=config.decoded
        )
    if bad:
        (folder / SKIPPED).write_text("\n".join(bad) + "\n", "utf-8")
        kind = "images" if config.video is None else "clips"
        say(f"{len(bad):,} of {total:,} {kind} left out, as {SKIPPED} lists them; the first: {bad[0]}")
    for task in every:
        task.note(folder).unlink()
    for left in folder.glob("*/*.tmp-*"):  # by a process that was killed
        left.unlink(missing_ok=True)
    return indexes


def _encode(item: Item, resize: int | None, wanted: PixelConfig) -> Encoded | str:
    """The image's bytes for the shard, their format, height and width; or why it cannot be used."""
    try:
        data = item.read()
        image = decode.decode(data, pixels=wanted)
        clipped = channels.outside(data, wanted, max_pixels=decode.MAX_PIXELS) > _MOSTLY
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except DataError as error:
        return str(error)
    extension = item.suffix.lstrip(".")
    height, width = image.shape[-2:]
    if resize is not None and min(height, width) > resize:
        scale = resize / min(height, width)
        height, width = round(height * scale), round(width * scale)
    elif extension in (shard.PLAIN if wanted == RGB else shard.IMAGE_TYPES):
        return Encoded(data, extension, (height, width), clipped)
    if wanted != RGB:
        array = channels.rewritten(data, wanted, (height, width), max_pixels=decode.MAX_PIXELS)
        return Encoded(array, "npy", (height, width), clipped)
    if image.shape[-2:] != (height, width):
        image = decode.resize(image, (height, width))
    buffer = io.BytesIO()
    lossy = extension in ("jpg", "jpeg", "webp")
    pixels = image.permute(1, 2, 0).contiguous().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(buffer, "JPEG" if lossy else "PNG", **({"quality": 95} if lossy else {}))
    return Encoded(buffer.getvalue(), "jpg" if lossy else "png", (height, width))
