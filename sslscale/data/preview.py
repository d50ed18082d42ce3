"""A few images of a source as a training would be shown them, without packing the source."""

from __future__ import annotations

import dataclasses
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sslscale.data import channels, decode, sources
from sslscale.data.batch import Batch
from sslscale.data.loader import Loader
from sslscale.data.samples import open_samples
from sslscale.data.split import split
from sslscale.data.stream import Stream
from sslscale.data.write import Sample, write_shards
from sslscale.errors import DataError
from sslscale.settings.data import PackConfig
from sslscale.settings.pixels import RGB, PixelConfig
from sslscale.settings.train import TrainConfig

IMAGES = 6


def first_batches(source: PackConfig, config: TrainConfig, *, seed: int, threads: int) -> dict[str, Batch]:
    """A batch of IMAGES images for each of the method's streams, drawn by the seed; raises DataError."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "images"
        write_shards(place, "images", _drawn(source, config.image.pixels, seed), (), IMAGES)
        samples = open_samples(place, labels=False)
        streams = {}
        for spec in config.method.streams:
            plain = dataclasses.replace(spec, ratio=1, fields=())
            few = dataclasses.replace(config, batch_size=IMAGES, accumulate=1, seed=seed)
            streams[spec.name] = Stream(
                plain.name,
                samples,
                batch_size=IMAGES,
                seed=seed,
                image=few.image,
                views=few.views_of(plain),
                cache=None,
                cache_bytes=0,
                threads=threads,
            )
        return next(iter(Loader(streams, 1, threads=threads)))


def _drawn(source: PackConfig, pixels: PixelConfig, seed: int) -> Iterator[Sample]:
    """IMAGES readable images of the source as arrays."""
    done = split(source, sources.list_source(source.source))
    items = [item for name, part in done.parts.items() if name in ("labeled", "unlabeled") for item in part]
    random.Random(seed).shuffle(items)  # noqa: S311
    count, problem = 0, ""
    while items and count < IMAGES:
        item = items.pop()
        try:
            data = item.read()
            image = decode.decode(data, pixels=pixels)
            height, width = image.shape[-2:]
            if pixels == RGB:
                array = channels.npy(image.numpy())
            else:  # the numbers of its file, of which the range is still to be taken
                array = channels.rewritten(data, pixels, (height, width), max_pixels=decode.MAX_PIXELS)
        except (DataError, OSError) as error:
            problem = f"; {item.where}: {error}"
            continue
        yield Sample(f"image/{count:06d}", array, "npy", shape=(height, width))
        count += 1
    if count < IMAGES:
        raise DataError(f"{source.source}: {count} readable images are too few to show{problem}")
