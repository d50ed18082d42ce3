"""Streams of batches: deterministic by (seed, step), cut into equal parts for the workers, read ahead by a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sslscale import distributed
from sslscale.data import augment, images, rng
from sslscale.data.order import Order
from sslscale.data.samples import Samples
from sslscale.errors import ConfigError
from sslscale.recipes.augment import AugmentConfig
from sslscale.recipes.model import ImageConfig

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """This worker's part of one global batch.

    `views` are float images (batch, 3, size, size), normalised; `index` numbers the samples of the stream, and
    `label` and `soft` (class probabilities) are there if the stream has them.
    """

    views: tuple[Float[Tensor, "batch 3 size size"], ...]
    index: Int[Tensor, " batch"]
    label: Int[Tensor, " batch"] | None = None
    soft: Float[Tensor, "batch classes"] | None = None


@dataclass(frozen=True)
class _Raw:
    images: UInt8[Tensor, "batch 3 size size"]
    index: Tensor
    epoch: Tensor
    label: Tensor | None
    soft: Tensor | None


class Stream:
    """Batches of one list of samples, forever. Batch `step` is the same on every run and every number of workers."""

    def __init__(
        self,
        name: str,
        samples: Samples,
        *,
        batch_size: int,
        seed: int,
        image: ImageConfig,
        size: int,
        views: tuple[AugmentConfig, ...],
        cache: Path | None,
        cache_bytes: int,
        threads: int,
        on_bad_sample: str = "error",
    ):
        world = distributed.world_size()
        if batch_size % world:
            raise ConfigError(
                f"the global batch of {batch_size} {name} images does not divide over {world} workers; "
                f"use a multiple of {world}, or change num_workers"
            )
        random_crop = any(view.crop == "resized" for view in views)
        self.images = images.open_images(
            samples.shards,
            [info.sha256 for info in samples.index.shards],
            size,
            cache=cache,
            cache_bytes=cache_bytes,
            threads=threads,
            max_bad=images.bad_allowed(on_bad_sample, sum(map(len, samples.shards))),
            evaluation_crop=image.crop,
            random_crop=random_crop,
        )
        self.name, self.samples = name, samples.without(self.images.bad)
        if batch_size > len(self.samples):
            raise ConfigError(
                f"the global batch of {batch_size} {name} images is larger than the {len(self.samples)} there are"
            )
        self._batch_size, self._share = batch_size, batch_size // world
        self._seed = rng.stream_seed(seed, name)
        self._order = Order(self.samples.block_sizes, self._seed)
        self._image, self._views, self._random_crop = image, views, random_crop

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, step: int) -> _Raw:
        """Fetch this worker's part of batch `step` as uint8 images on the CPU."""
        position = step * self._batch_size + distributed.rank() * self._share
        numbers, epochs = self._order.take(position, self._share)
        index, epoch = torch.from_numpy(numbers), torch.from_numpy(epochs)
        crop = None
        if self._random_crop:
            draws = rng.uniforms(self._seed ^ 0x5EED, epoch, index, 4)
            crop = images.crop_boxes(draws, self._views[0].scale)
        fetched = self.images.fetch(self.samples.shard[numbers], self.samples.row[numbers], crop)
        labels = torch.from_numpy(self.samples.labels[numbers])
        soft = self.samples.soft(numbers)
        return _Raw(
            fetched,
            index,
            epoch,
            None if bool((labels < 0).any()) else labels,
            None if soft is None else torch.from_numpy(soft),
        )

    def finish(self, raw: _Raw, device: torch.device) -> Batch:
        """Augment and normalise on `device`."""
        pixels = raw.images.to(device, non_blocking=True)
        index, epoch = raw.index.to(device), raw.epoch.to(device)
        views = []
        for number, config in enumerate(self._views):
            draws = rng.uniforms(self._seed + number, epoch, index, augment.num_draws(config))
            view = augment.augment(pixels, draws, config)
            views.append(augment.normalize(view, self._image.mean, self._image.std, torch.float32))
        return Batch(
            tuple(views),
            index,
            None if raw.label is None else raw.label.to(device),
            None if raw.soft is None else raw.soft.to(device),
        )


def batches(
    streams: Mapping[str, Stream], start: int, stop: int, device: torch.device, *, depth: int = 2
) -> Iterator[dict[str, Batch]]:
    """Yield the batches of all streams for steps start .. stop - 1; a thread reads `depth` steps ahead."""
    ready: queue.Queue[dict[str, _Raw] | BaseException] = queue.Queue(maxsize=depth)
    stopping = threading.Event()

    def offer(item: dict[str, _Raw] | BaseException) -> bool:
        while not stopping.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for step in range(start, stop):
                if not offer({name: stream.read(step) for name, stream in streams.items()}):
                    return
        except BaseException as error:  # reraised where the batch is asked for
            offer(error)

    reader = threading.Thread(target=read, daemon=True, name="reader")
    reader.start()
    try:
        for _ in range(start, stop):
            raw = ready.get()
            if isinstance(raw, BaseException):
                raise raw
            yield {name: streams[name].finish(part, device) for name, part in raw.items()}
    finally:
        stopping.set()
        reader.join()
