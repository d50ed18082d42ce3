"""One stream of batches: deterministic by (seed, step), cut into equal parts for the workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from sslscale import distributed
from sslscale.data import rng
from sslscale.data.batch import Batch
from sslscale.data.image_views import ImageViews, RawViews
from sslscale.data.order import Order, Window
from sslscale.data.prefetch import Prefetch
from sslscale.data.samples import Samples
from sslscale.data.scene_views import SceneViews
from sslscale.data.transfer import to_device
from sslscale.errors import ConfigError
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.model import ImageConfig
from sslscale.settings.streams import OBJECT_FIELDS

if TYPE_CHECKING:
    from torch import Tensor

    from sslscale.settings.streams import Field, StreamSpec
    from sslscale.settings.train import TrainConfig

CPU = torch.device("cpu")


@dataclass(frozen=True)
class RawBatch:
    """A batch before its views are made: all of it on the host."""

    views: RawViews
    index: Tensor
    global_numbers: Tensor
    fields: Mapping[Field, Tensor]


class Stream:
    """Batches of one list of samples, forever. Batch `step` is the same on every run and every number of workers.

    Epoch follows epoch without a seam: where the batch does not divide the samples, a batch ends one epoch and begins
    the next, so that no sample is left out or seen twice in an epoch. Each worker has a part of every batch, which
    differ by one sample at most. No shard is read before it is needed, or will be soon.
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
        fields: Sequence[Field] = ("label",),
        cache: Path | None,
        cache_bytes: int | None,
        threads: int,
        device: torch.device = CPU,
        whole_batches: bool | None = None,
        unit: int = 1,
    ):
        """`unit` is how many samples of a batch go to a worker together.

        Raises ConfigError if a worker has no part of the batch, or if it is larger than the samples."""
        if batch_size > len(samples):
            raise ConfigError(
                f"the global batch of {batch_size} {name} images is larger than the {len(samples)} there are"
            )
        if batch_size // unit < distributed.world_size():
            raise ConfigError(
                f"the global batch of {batch_size} {name} images has no part for each of {distributed.world_size()} "
                "workers; raise batch_size, or lower num_workers"
            )
        self._seed = rng.stream_seed(seed, name)
        self._reader: ImageViews | SceneViews
        if samples.objects is not None:
            own: list[Field] = [name for name in fields if name in OBJECT_FIELDS]
            self._reader = SceneViews(samples, views[0], image, own, seed=self._seed, threads=threads, device=device)
        else:
            self._reader = ImageViews(
                samples.shards,
                views,
                image,
                seed=self._seed,
                cache=cache,
                cache_bytes=cache_bytes,
                threads=threads,
                device=device,
                whole_batches=whole_batches,
            )
        self.name, self.samples, self.device = name, samples, device
        self.batch_size, self._fields, self._unit = batch_size, fields, unit
        self._order = Order(samples.block_sizes, self._seed)
        self._prefetch = Prefetch(self._reader.make, at_once=max(threads, 1))
        self._ahead: Window | None = None  # the window whose shards were asked for last

    @classmethod
    def of(
        cls,
        spec: StreamSpec,
        samples: Samples,
        config: TrainConfig,
        *,
        cache: Path | None,
        cache_bytes: int | None,
        threads: int,
        device: torch.device = CPU,
    ) -> Stream:
        """The stream that a method's specification and the training's settings describe."""
        missing = [name for name in spec.fields if name != "teacher_logits" and not samples.has(name)]
        if missing:
            raise ConfigError(f"{config.method.name}: the {spec.name} samples have no {missing[0]}")
        return cls(
            spec.name,
            samples,
            batch_size=config.batch_sizes[spec.name],
            seed=config.seed,
            image=config.image,
            views=config.views_of(spec),
            fields=[name for name in spec.fields if samples.has(name)],
            cache=cache,
            cache_bytes=cache_bytes,
            threads=threads,
            device=device,
            unit=distributed.unit_of(config.batch_sizes[spec.name], config.batch_sizes.values()),
        )

    def __len__(self) -> int:
        return len(self.samples)

    def choose(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sample numbers and epochs, int64, of this worker's part of batch `step`, and the numbers of the whole batch.

        Has the shards of the steps to come made ready.
        """
        self._look_ahead(step)
        numbers, epochs = self._order.take(step * self.batch_size, self.batch_size)
        part = distributed.part(self.batch_size, self._unit)
        return numbers[part], epochs[part], numbers

    def _look_ahead(self, step: int) -> None:
        window = self._order.window(step * self.batch_size)
        if self._ahead is not None and window[:2] == self._ahead[:2]:
            return
        self._ahead = window
        shards = self._shards_of(window)
        if self._order.windowed:
            shards = np.concatenate([shards, self._shards_of(self._order.after(window))])
        # workers that share all shards begin with different ones
        shift = 0 if self._order.windowed else len(shards) * distributed.rank() // distributed.world_size()
        self._prefetch.want(np.roll(shards, -shift))

    def _shards_of(self, window: Window) -> np.ndarray:
        """The shards that this worker reads in a window."""
        blocks = window.blocks
        if self._order.windowed:
            blocks = self._order.part(window, distributed.rank(), distributed.world_size())
        return self.samples.shards_of(blocks)

    def make_ready(self) -> None:
        """Open all shards and decode their images now, for measurements that are to begin with that done."""
        self._reader.make(range(len(self.samples.shards)))

    def close(self) -> None:
        """Make no more shards ready."""
        self._prefetch.close()

    def global_numbers(self, step: int) -> np.ndarray:
        """Sample numbers, int64, of all workers' parts of batch `step`, in the workers' order."""
        return self._order.take(step * self.batch_size, self.batch_size)[0]

    def keys(self, step: int) -> list[str]:
        """The keys of all samples of the global batch `step`, on all workers."""
        return [self.samples.key(number) for number in self.global_numbers(step).tolist()]

    def load(self, numbers: np.ndarray, epochs: np.ndarray, global_numbers: np.ndarray | None = None) -> RawBatch:
        """Read these samples on the host. `global_numbers` are those of all workers, by default these alone."""
        index, epoch, frames = torch.from_numpy(numbers), torch.from_numpy(epochs), self.samples.frames
        shard, row = self.samples.places(numbers)
        row = (row[:, None] + np.arange(frames)).ravel()
        # the frames of a clip have the number of their clip, by which what happens to an image is drawn
        drawn = index.repeat_interleave(frames), epoch.repeat_interleave(frames)
        views = self._reader.load(shard.repeat(frames), row, *drawn)
        fields: dict[Field, Tensor] = dict(views.fields)
        for name in self._fields:
            if name not in fields:
                fields[name] = torch.from_numpy(self.samples.field(name, numbers))
        every = index if global_numbers is None else torch.from_numpy(global_numbers)
        return RawBatch(views, index, every, fields)

    def finish(self, raw: RawBatch) -> Batch:
        """Make the views, on the stream's device."""
        fields: dict[Field, Tensor] = {name: to_device(x, self.device) for name, x in raw.fields.items()}
        views = self._reader.finish(raw.views)
        if self.samples.frames > 1:
            views = tuple(view.unflatten(0, (-1, self.samples.frames)) for view in views)
        return Batch(views, to_device(raw.index, self.device), fields, raw.global_numbers)
