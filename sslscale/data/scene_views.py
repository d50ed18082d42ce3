"""Views of images with annotated objects: the whole image on a square canvas, and its boxes and masks moved with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sslscale.data import augment, rng
from sslscale.data.box_policy import autoaugment
from sslscale.data.image_views import RawViews
from sslscale.data.plan import make_plan, num_draws, plan_scale, policy_seeds
from sslscale.data.samples import Samples
from sslscale.data.scene import NONE, Scene, moved, place, semantic_map
from sslscale.data.threads import pool
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.model import ImageConfig
from sslscale.shapes import Float

if TYPE_CHECKING:
    from sslscale.settings.streams import Field


class SceneViews:
    """Makes the views of images with objects, and their boxes; the interface is that of ImageViews."""

    whole_batches = True

    def __init__(
        self,
        samples: Samples,
        view: AugmentConfig,
        image: ImageConfig,
        fields: Sequence[Field],
        *,
        seed: int,
        threads: int,
        device: torch.device,
    ):
        self._samples, self._view, self._image, self._fields = samples, view, image, fields
        self._seed, self._device, self._pool = seed, device, pool("decode", max(threads, 1))
        self._fill = torch.tensor([round(255 * m) for m in image.mean], dtype=torch.uint8)

    def make(self, shards: Sequence[int]) -> None:
        """Open these shards ahead of need. Images are decoded when they are asked for, as large as they are needed."""
        for number in shards:
            _ = self._samples.shards[number]

    def load(self, shard: np.ndarray, row: np.ndarray, index: Tensor, epoch: Tensor) -> RawViews:
        """Read these images and their objects, and draw what happens to each."""
        size = self._image.size
        draws = rng.uniforms(self._seed, epoch, index, num_draws(self._view))
        plan = make_plan(draws, self._view, size, size, size)
        scales = plan_scale(draws, self._view).tolist()
        seeds = policy_seeds(draws, self._view) if self._view.autoaugment else None
        pixels = torch.empty(len(row), 3, size, size, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        wanted = any(name in self._fields for name in ("masks", "semantic"))
        annotated = any(name != "placement" for name in self._fields)

        def one(position: int) -> Scene:
            s, r = int(shard[position]), int(row[position])
            objects = self._samples.objects_of(s, r) if annotated else None
            opened = self._samples.shards[s]
            scene = place(opened.encoded(r), objects, size, self._fill, *scales[position], masks=wanted)
            if seeds is not None:
                scene = autoaugment(scene, np.random.default_rng([self._seed, seeds[position]]))
            pixels[position] = scene.pixels
            return scene

        scenes = list(self._pool.map(one, range(len(row))))
        matrices = None
        if plan.layers is not None and self._view.randaugment is not None:
            matrices = augment.moves(plan.layers, self._view.randaugment, size)
        scenes = [
            moved(
                scene,
                size,
                mirrored=plan.mirrored is not None and bool(plan.mirrored[n]),
                matrix=None if matrices is None else matrices[n],
            )
            for n, scene in enumerate(scenes)
        ]
        found = _stacked(scenes, size)
        return RawViews([pixels], [plan], {name: found[name]() for name in self._fields})

    def finish(self, raw: RawViews) -> tuple[Float[Tensor, "batch 3 size size"], ...]:
        """Mirror, colour and normalise on the device."""
        own = dataclasses.replace(self._view, crop="none")
        pixels = raw.pixels[0].to(self._device, non_blocking=True)
        mean, std = self._image.mean, self._image.std
        return (augment.make_view(pixels, raw.plans[0], own, self._image.size, mean, std),)


def _stacked(scenes: Sequence[Scene], size: int) -> Mapping[str, Callable[[], Tensor]]:
    """How each field of a batch is made. Rows are filled up to the most objects of an image."""
    most = max(1, *(len(scene.boxes) for scene in scenes))

    def boxes() -> Tensor:
        found = torch.zeros(len(scenes), most, 4)
        for n, scene in enumerate(scenes):
            found[n, : len(scene.boxes)] = torch.from_numpy(np.ascontiguousarray(scene.boxes))
        return found

    def labels() -> Tensor:
        found = torch.full((len(scenes), most), NONE, dtype=torch.int64)
        for n, scene in enumerate(scenes):
            found[n, : len(scene.labels)] = torch.from_numpy(scene.labels)
        return found

    def masks() -> Tensor:
        found = torch.zeros(len(scenes), most, size, size, dtype=torch.uint8)
        for n, scene in enumerate(scenes):
            if scene.masks is not None:
                found[n, : len(scene.masks)] = torch.from_numpy(np.ascontiguousarray(scene.masks))
        return found

    def semantic() -> Tensor:
        return torch.from_numpy(np.stack([semantic_map(scene, size) for scene in scenes])).long()

    def placement() -> Tensor:
        return torch.tensor([scene.placement for scene in scenes])

    return {"boxes": boxes, "box_label": labels, "masks": masks, "semantic": semantic, "placement": placement}
