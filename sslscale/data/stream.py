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
from sslscale.data.images import bad_allowed
from sslscale.data.order import Order
from sslscale.data.samples import Samples
from sslscale.data.transfer import to_device
from sslscale.errors import ConfigError
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.model import ImageConfig

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
        fields: Sequence[Field] = ("label",),
        cache: Path | None,
        cache_bytes: int,
        threads: int,
        device: torch.device = CPU,
        on_bad_sample: str = "error",
        whole_batches: bool | None = None,
    ):
        """Raises ConfigError if the workers cannot divide the batch, or if it is larger than the samples."""
        world = distributed.world_size()
        if batch_size % world:
            raise ConfigError(
                f"the global batch of {batch_size} {name} images does not divide over {world} workers; "
                f"use a multiple of {world}, or change num_workers"
            )
        self._seed = rng.stream_seed(seed, name)
        self._reader = ImageViews(
            samples.shards,
            views,
            image,
            seed=self._seed,
            cache=cache,
            cache_bytes=cache_bytes,
            threads=threads,
            device=device,
            max_bad=bad_allowed(on_bad_sample, samples.index.num_samples),
            whole_batches=whole_batches,
        )
        self.name, self.samples, self.device = name, samples.without(self._reader.bad), device
        if batch_size > len(self.samples):
            raise ConfigError(
                f"the global batch of {batch_size} {name} images is larger than the {len(self.samples)} there are"
            )
        self.batch_size, self._share, self._fields = batch_size, batch_size // world, fields
        self._order = Order(self.samples.block_sizes, self._seed)

    @classmethod
    def of(
        cls,
        spec: StreamSpec,
        samples: Samples,
        config: TrainConfig,
        *,
        cache: Path | None,
        cache_bytes: int,
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
            on_bad_sample=config.on_bad_sample,
        )

    def __len__(self) -> int:
        return len(self.samples)

    def choose(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample numbers and epochs, int64, of this worker's part of batch `step`."""
        return self._order.take(step * self.batch_size + distributed.rank() * self._share, self._share)

    def global_numbers(self, step: int) -> np.ndarray:
        """Sample numbers, int64, of all workers' parts of batch `step`, in the workers' order."""
        return self._order.take(step * self.batch_size, self.batch_size)[0]

    def keys(self, step: int) -> list[str]:
        """The keys of all samples of the global batch `step`, on all workers."""
        return [self.samples.key(number) for number in self.global_numbers(step).tolist()]

    def load(self, numbers: np.ndarray, epochs: np.ndarray, global_numbers: np.ndarray | None = None) -> RawBatch:
        """Read these samples on the host. `global_numbers` are those of all workers, by default these alone."""
        index, epoch = torch.from_numpy(numbers), torch.from_numpy(epochs)
        shard, row = self.samples.places(numbers)
        return RawBatch(
            self._reader.load(shard, row, index, epoch),
            index,
            index if global_numbers is None else torch.from_numpy(global_numbers),
            {name: torch.from_numpy(self.samples.field(name, numbers)) for name in self._fields},
        )

    def finish(self, raw: RawBatch) -> Batch:
        """Make the views, on the stream's device."""
        fields: dict[Field, Tensor] = {name: to_device(x, self.device) for name, x in raw.fields.items()}
        return Batch(self._reader.finish(raw.views), to_device(raw.index, self.device), fields, raw.global_numbers)
