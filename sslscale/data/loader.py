"""Streams of batches: deterministic by (seed, step), cut into equal parts for the workers, made ahead of need."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sslscale import distributed
from sslscale.data import augment, rng
from sslscale.data.images import SMALL, Images, bad_allowed
from sslscale.data.order import Order
from sslscale.data.plan import Plan, make_plan, num_draws
from sslscale.data.samples import Samples
from sslscale.data.threads import pool
from sslscale.data.transfer import to_device
from sslscale.errors import ConfigError
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.model import ImageConfig

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8
    from torch import Tensor


CPU = torch.device("cpu")


@dataclass(frozen=True)
class Batch:
    """This worker's part of one global batch.

    `views` are float images (batch, 3, size, size), normalised; `index` numbers the samples of the stream, on the
    device, and `numbers` those of all workers' images, in the workers' order, on the host, where nobody must wait;
    `label` (-1: none), `soft` (class probabilities) and `features` (of another network) are there if the stream has
    them.
    """

    views: tuple[Float[Tensor, "batch 3 size size"], ...]
    index: Int[Tensor, " batch"]
    label: Int[Tensor, " batch"] | None = None
    soft: Float[Tensor, "batch classes"] | None = None
    features: Float[Tensor, "batch dim"] | None = None
    numbers: Int[Tensor, " global_batch"] | None = None

    @property
    def global_index(self) -> Int[Tensor, " global_batch"]:
        """The numbers of all workers' images, on the host; a batch that no loader made is asked for them."""
        return distributed.gather(self.index).cpu() if self.numbers is None else self.numbers

    @property
    def host_index(self) -> Int[Tensor, " batch"]:
        """`index` on the host."""
        return self.global_index[distributed.rank() * len(self.index) :][: len(self.index)]


@dataclass(frozen=True)
class _Raw:
    pixels: Sequence[UInt8[Tensor, "batch 3 height width"]]  # of each view, or one for all views
    plans: Sequence[Plan]
    index: Tensor
    numbers: Tensor  # of all workers
    label: Tensor | None
    soft: Tensor | None
    features: Tensor | None


class Stream:
    """Batches of one list of samples, forever. Batch `step` is the same on every run and every number of workers.

    Epoch follows epoch without a seam: where the batch does not divide the samples, a batch ends one epoch and begins
    the next, so that no sample is left out or seen twice in an epoch. Each worker has an equal part of every batch.
    """

    def __init__(
        self,
        name: str,
        samples: Samples,
        *,
        batch_size: int,
        seed: int,
        image: ImageConfig,
        views: Sequence[AugmentConfig],
        cache: Path | None,
        cache_bytes: int,
        threads: int,
        device: torch.device = CPU,
        on_bad_sample: str = "error",
        whole_batches: bool | None = None,
    ):
        """`whole_batches` cuts random crops of whole batches, as a GPU does, or of one image after another; None: as
        the device is faster. Only images of one shape can be cut as a batch."""
        world = distributed.world_size()
        if batch_size % world:
            raise ConfigError(
                f"the global batch of {batch_size} {name} images does not divide over {world} workers; "
                f"use a multiple of {world}, or change num_workers"
            )
        self.views = [view for view in views for _ in range(view.count)]
        self._sizes = [view.size or image.size for view in self.views]
        whole = any(view.crop == "resized" for view in self.views)
        self.images = Images(
            samples.shards,
            image.size,
            cache=cache,
            cache_bytes=cache_bytes,
            threads=threads,
            max_bad=bad_allowed(on_bad_sample, samples.index.num_samples),
            evaluation_crop=image.crop,
            whole=whole,
            short_side=image.short_side,
        )
        self.name, self.samples, self.device = name, samples.without(self.images.bad), device
        if batch_size > len(self.samples):
            raise ConfigError(
                f"the global batch of {batch_size} {name} images is larger than the {len(self.samples)} there are"
            )
        self.batch_size, self._share = batch_size, batch_size // world
        self._labeled = bool((self.samples.labels >= 0).any())
        self._seed = rng.stream_seed(seed, name)
        self._order = Order(self.samples.block_sizes, self._seed)
        self._image, self._threads = image, threads
        # one batch of pixels for all views if the device can cut their boxes itself; else each image is cut by itself
        shape = self.images.shape
        fits = all(
            v.crop == "resized" or shape == (size, size) for v, size in zip(self.views, self._sizes, strict=True)
        )
        if whole_batches is None:
            whole_batches = not whole or device.type != "cpu" or (shape is not None and max(shape) <= SMALL)
        self._batched = shape is not None and fits and whole_batches

    def __len__(self) -> int:
        return len(self.samples)

    def choose(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample numbers and epochs, int64, of this worker's part of batch `step`."""
        return self._order.take(step * self.batch_size + distributed.rank() * self._share, self._share)

    def everyone(self, step: int) -> np.ndarray:
        """Sample numbers, int64, of all workers' parts of batch `step`, in the workers' order."""
        return self._order.take(step * self.batch_size, self.batch_size)[0]

    def keys(self, step: int) -> list[str]:
        """The keys of all images of the global batch `step`, on all workers."""
        return [self.samples.key(number) for number in self.everyone(step).tolist()]

    def load(self, numbers: np.ndarray, epochs: np.ndarray, everyone: np.ndarray | None = None) -> _Raw:
        """Fetch these samples as uint8 images on the CPU, and draw what shall happen to them.

        `everyone` are the numbers of all workers' samples; these alone if they are not given.
        """
        index, epoch = torch.from_numpy(numbers), torch.from_numpy(epochs)
        shard, row = self.samples.places(numbers)
        heights, widths = torch.from_numpy(self.images.sizes(shard, row)).unbind(1)
        plans = []
        for number, (view, size) in enumerate(zip(self.views, self._sizes, strict=True)):
            draws = rng.uniforms(self._seed + number, epoch, index, num_draws(view))
            plans.append(make_plan(draws, view, size, heights, widths))
        if self._batched:
            pixels = [self.images.fetch(shard, row, pin=self.device.type == "cuda")]
        else:
            boxes = [plan.boxes if plan.boxes is not None else _centre(heights, widths) for plan in plans]
            pixels = self.images.crops(shard, row, boxes, self._sizes, pin=self.device.type == "cuda")
        soft, features = self.samples.soft(numbers), self.samples.features
        return _Raw(
            pixels,
            plans,
            index,
            index if everyone is None else torch.from_numpy(everyone),
            torch.from_numpy(self.samples.labels[numbers].astype(np.int64)) if self._labeled else None,
            None if soft is None else torch.from_numpy(soft),
            None if features is None else torch.from_numpy(features.take(shard, row)),
        )

    def finish(self, raw: _Raw) -> Batch:
        """Augment and normalise on the stream's device."""

        def here(x: Tensor) -> Tensor:
            return to_device(x, self.device)

        pixels = [x.to(self.device, non_blocking=True) for x in raw.pixels]  # which is pinned for a GPU
        image = self._image
        views = [
            augment.make_view(
                pixels[0] if self._batched else pixels[number],
                plan,
                view,
                size,
                image.mean,
                image.std,
                cropped=not self._batched,
            )
            for number, (plan, view, size) in enumerate(zip(raw.plans, self.views, self._sizes, strict=True))
        ]
        label, soft, features = (None if x is None else here(x) for x in (raw.label, raw.soft, raw.features))
        return Batch(tuple(views), here(raw.index), label, soft, features, raw.numbers)


def _centre(heights: Tensor, widths: Tensor) -> Float[Tensor, "batch 4"]:
    side = torch.minimum(heights, widths)
    return torch.stack([(heights - side) // 2, (widths - side) // 2, side, side], 1).float()


class Loader:
    """The batches of some streams for steps 0 .. num_steps - 1, made ahead of need.

    On a CPU `threads` threads make whole batches each; for a GPU they read, and a stream of the GPU's own augments
    the next batch while the last one trains. Going on from `state_dict` gives the very samples that would have come,
    on any number of workers.
    """

    def __init__(self, streams: Mapping[str, Stream], num_steps: int, *, threads: int = 1, depth: int = 2):
        self._streams, self._num_steps = streams, num_steps
        self._threads, self._depth = max(threads, 1), depth
        self._step = 0

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch begins: the step, and the global batch of each stream."""
        return {"step": self._step, "batch_sizes": {name: s.batch_size for name, s in self._streams.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; raises ConfigError if the batches are not of the same size."""
        sizes = self.state_dict()["batch_sizes"]
        if state["batch_sizes"] != sizes:
            raise ConfigError(f"cannot go on in batches of {sizes} from a state with {state['batch_sizes']}")
        self._step = state["step"]

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        device = next(iter(self._streams.values())).device
        made = self._made(self._finished if device.type == "cpu" else self._loaded)
        if device.type == "cuda":
            made = _on_a_stream(made, self._streams, device)
        try:
            for batch in made:
                self._step += 1
                yield batch
        finally:
            made.close()

    def _loaded(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._streams[name].load(*where) for name, where in chosen.items()}

    def _finished(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._streams[name].finish(raw) for name, raw in self._loaded(chosen).items()}

    def _made(self, make: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Generator[dict[str, Any], None, None]:
        """Results of `make` for each step in order; some are under way."""
        readers = pool("reader", self._threads)
        waiting: deque[Future[dict[str, Any]]] = deque()
        step = self._step
        try:
            while step < self._num_steps or waiting:
                while step < self._num_steps and len(waiting) < self._threads + self._depth:
                    chosen = {n: (*stream.choose(step), stream.everyone(step)) for n, stream in self._streams.items()}
                    waiting.append(readers.submit(make, chosen))
                    step += 1
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            wait(waiting)


def _on_a_stream(
    loaded: Generator[dict[str, _Raw], None, None], streams: Mapping[str, Stream], device: torch.device
) -> Generator[dict[str, Batch], None, None]:
    """Finish one batch ahead on a CUDA stream beside the one that trains."""
    side = torch.cuda.Stream(device)

    def finish(raw: dict[str, _Raw]) -> dict[str, Batch]:
        # it waits for no step: what it allocates comes from memory of its own, which the training gives back by events
        with torch.cuda.stream(side):
            return {name: streams[name].finish(part) for name, part in raw.items()}

    def hand_over(batch: dict[str, Batch]) -> dict[str, Batch]:
        here = torch.cuda.current_stream(device)
        here.wait_stream(side)
        for part in batch.values():
            for x in (*part.views, part.index, part.label, part.soft, part.features):
                if x is not None:
                    x.record_stream(here)
        return batch

    try:
        ahead: dict[str, Batch] | None = None
        for raw in loaded:
            ready, ahead = ahead, None
            if ready is not None:
                ready = hand_over(ready)  # before the next batch is queued: this one must not wait for it
            ahead = finish(raw)
            if ready is not None:
                yield ready
        if ahead is not None:
            yield hand_over(ahead)
    finally:
        loaded.close()
