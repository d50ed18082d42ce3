"""Augmented views of the images of some shards: read and cropped by threads, augmented on the device that trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sslscale.data import augment, rng
from sslscale.data.decode_once import SMALL
from sslscale.data.images import Images
from sslscale.data.plan import Plan, make_plan, num_draws
from sslscale.data.shards import Shards
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.model import ImageConfig
from sslscale.shapes import Float, UInt

if TYPE_CHECKING:
    from sslscale.settings.streams import Field


@dataclass(frozen=True)
class RawViews:
    """Images on the host, and what shall happen to them. `pixels`: of each view, or one batch for all views."""

    pixels: Sequence[UInt[Tensor, "batch channels _ _"]]
    plans: Sequence[Plan]
    fields: Mapping[Field, Tensor] = dataclass_field(default_factory=dict)  # what is made together with the views


class ImageViews:
    """Makes the views of images. What happens to an image follows from the seed, its number and the epoch alone.

    This is the interface of every kind of sample: `make` ahead of need, `load` on the host, `finish` on the device.
    """

    def __init__(
        self,
        shards: Shards,
        views: Sequence[AugmentConfig],
        image: ImageConfig,
        *,
        seed: int,
        cache: Path | None,
        cache_bytes: int | None,
        threads: int,
        device: torch.device,
        whole_batches: bool | None = None,
    ):
        """`whole_batches` cuts random crops of a whole batch at once, as a GPU does, or of one image after another.

        None takes what is faster on the device. Only images of one shape can be cut as a batch.
        """
        self.views = [view for view in views for _ in range(view.count)]
        self._sizes = [view.size or image.size for view in self.views]
        whole = any(view.crop == "resized" for view in self.views)
        self.images = Images(
            shards,
            image.size,
            cache=cache,
            cache_bytes=cache_bytes,
            threads=threads,
            evaluation_crop=image.crop,
            whole=whole,
            short_side=image.short_side,
            width=image.width,
            pixels=image.pixels,
        )
        self._seed, self._image, self._device = seed, image, device
        shape = self.images.shape
        fits = all(
            v.crop == "resized" or shape == (size, image.width or size)
            for v, size in zip(self.views, self._sizes, strict=True)
        )
        if whole_batches is None:
            whole_batches = not whole or device.type != "cpu" or (shape is not None and max(shape) <= SMALL)
        self.whole_batches = shape is not None and fits and whole_batches

    def make(self, shards: Sequence[int]) -> None:
        """Open these shards and decode their images into files, ahead of need."""
        self.images.make(shards)

    def load(self, shard: np.ndarray, row: np.ndarray, index: Tensor, epoch: Tensor) -> RawViews:
        """Read these images, and draw what happens to each. `index` and `epoch`, int64 (batch,), seed the draws."""
        heights, widths = torch.from_numpy(self.images.sizes(shard, row)).unbind(1)
        plans = []
        for number, (view, size) in enumerate(zip(self.views, self._sizes, strict=True)):
            draws = rng.uniforms(self._seed + number, epoch, index, num_draws(view))
            plans.append(make_plan(draws, view, size, heights, widths, self._image.width))
        pin = self._device.type == "cuda"
        if self.whole_batches:
            return RawViews([self.images.fetch(shard, row, pin=pin)], plans)
        boxes = [plan.boxes if plan.boxes is not None else _centre(heights, widths) for plan in plans]
        return RawViews(self.images.crops(shard, row, boxes, self._sizes, pin=pin), plans)

    def finish(self, raw: RawViews) -> tuple[Float[Tensor, "batch channels _ _"], ...]:
        """Augment and normalise on the device."""
        pixels = [x.to(self._device, non_blocking=True) for x in raw.pixels]  # pinned if the device is a GPU
        return tuple(
            augment.make_view(
                pixels[0] if self.whole_batches else pixels[number],
                plan,
                view,
                size,
                self._image.mean,
                self._image.std,
                cropped=not self.whole_batches,
            )
            for number, (plan, view, size) in enumerate(zip(raw.plans, self.views, self._sizes, strict=True))
        )


def _centre(heights: Tensor, widths: Tensor) -> Float[Tensor, "batch 4"]:
    side = torch.minimum(heights, widths)
    return torch.stack([(heights - side) // 2, (widths - side) // 2, side, side], 1).float()
