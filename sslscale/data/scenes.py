"""Views of images with annotated objects: the whole image on a square canvas, and its boxes and masks moved with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sslscale.data import augment, decode, geometry, rng
from sslscale.data.image_views import RawViews
from sslscale.data.objects import Counts, Objects, decode_mask
from sslscale.data.plan import make_plan, num_draws, plan_scale
from sslscale.data.preparation import power_of_two
from sslscale.data.samples import Samples
from sslscale.data.threads import pool
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.model import ImageConfig
from sslscale.shapes import Float, UInt8

if TYPE_CHECKING:
    from sslscale.settings.streams import Field

NONE, CROWD = -1, -2  # labels of what is no object, and of what is not to be learned
IGNORED = 255  # of semantic maps
_SMALLEST = 1.0  # pixels on the canvas: what is left of an object must have that on both sides


class Scene(NamedTuple):
    """One image on its canvas. `masks` are there if they are asked for and the image has them, else None."""

    pixels: UInt8[Tensor, "3 size size"]
    boxes: np.ndarray  # float32 (objects, 4): x0, y0, x1, y1 on the canvas
    labels: np.ndarray  # int64 (objects,), CROWD for crowds
    masks: np.ndarray | None  # bool (objects, size, size)
    void: np.ndarray | None  # bool (size, size)
    placement: tuple[float, float, float, float]  # canvas = image * (1st, 2nd) - (3rd, 4th): x and y


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
        pixels = torch.empty(len(row), 3, size, size, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        wanted = any(name in self._fields for name in ("masks", "semantic"))

        annotated = any(name != "placement" for name in self._fields)

        annotated = any(name != "placement" for name in self._fields)

        def one(position: int) -> Scene:
            s, r = int(shard[position]), int(row[position])
            objects = self._samples.objects_of(s, r) if annotated else None
            opened = self._samples.shards[s]
            scene = place(opened.encoded(r), objects, size, self._fill, *scales[position], masks=wanted)
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


def place(
    encoded: memoryview,
    objects: Objects | None,
    size: int,
    fill: Tensor,
    factor: float,
    x: float,
    y: float,
    *,
    masks: bool,
) -> Scene:
    """Scale an image to `factor` times the size at which it fits the canvas; cut it there at (x, y) in [0, 1), or fill
    up what is left on the right and below. Objects of which less than a pixel is left are dropped."""
    height, width = decode.dimensions(encoded)
    scale = factor * size / max(height, width)
    target = (max(round(height * scale), 1), max(round(width * scale), 1))
    image = decode.decode(encoded, reduce=power_of_two(1 / scale))
    if image.shape[-2:] != target:
        image = decode.resize(image, target)
    top, left = (int(at * (side - size + 1)) if side > size else 0 for at, side in zip((y, x), target, strict=True))
    image = image[:, top : top + size, left : left + size]
    seen = image.shape[-2:]
    pixels = fill.view(3, 1, 1).repeat(1, size, size)
    pixels[:, : seen[0], : seen[1]] = image
    across, down = target[1] / width, target[0] / height
    placement = (across, down, float(left), float(top))
    if objects is None:
        return Scene(pixels, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), None, None, placement)
    boxes = objects.boxes * np.array([across, down] * 2, np.float32) - np.array([left, top] * 2, np.float32)
    boxes = np.clip(boxes, 0, np.array([seen[1], seen[0]] * 2, np.float32))
    labels = np.where(objects.crowd, CROWD, objects.labels)
    shown: np.ndarray | None = None
    void: np.ndarray | None = None

    def cut(counts: Counts | None) -> np.ndarray:
        canvas = np.zeros((size, size), bool)
        if counts is not None:
            mask = decode_mask(counts, objects.size)
            rows = ((np.arange(seen[0]) + top + 0.5) / down).astype(int).clip(0, objects.size[0] - 1)
            columns = ((np.arange(seen[1]) + left + 0.5) / across).astype(int).clip(0, objects.size[1] - 1)
            canvas[: seen[0], : seen[1]] = mask[rows[:, None], columns]
        return canvas

    if masks and objects.masks:
        shown = np.stack([cut(counts) for counts in objects.masks])
    if masks:
        void = cut(objects.void)
        void[seen[0] :], void[:, seen[1] :] = True, True  # beside the image
    return _kept(Scene(pixels, boxes, labels, shown, void, placement))


def moved(scene: Scene, size: int, *, mirrored: bool, matrix: Float[Tensor, "3 3"] | None) -> Scene:
    """The objects after a flip of the canvas, and after the pixels were moved by `matrix` (see augment.moves)."""
    boxes, masks, void = scene.boxes, scene.masks, scene.void
    if mirrored:
        boxes = np.stack([size - boxes[:, 2], boxes[:, 1], size - boxes[:, 0], boxes[:, 3]], 1)
        masks = None if masks is None else masks[:, :, ::-1]
        void = None if void is None else void[:, ::-1]
    if matrix is not None and not torch.equal(matrix, torch.eye(3)):
        forward = torch.linalg.inv(matrix.double()).numpy()
        corners = boxes[:, [0, 1, 2, 1, 0, 3, 2, 3]].reshape(-1, 4, 2) - size / 2
        there = corners @ forward[:2, :2].T + forward[:2, 2] + size / 2
        boxes = np.concatenate([there.min(1), there.max(1)], 1).astype(np.float32).clip(0, size)

        def warped(planes: np.ndarray, fill: int) -> np.ndarray:
            found = torch.from_numpy(np.ascontiguousarray(planes)).to(torch.uint8)[None]
            return geometry.affine(found, matrix[None, :2], fill)[0].bool().numpy()

        masks = None if masks is None or not len(masks) else warped(masks, 0)
        void = None if void is None else warped(void[None], 1)[0]
    return _kept(scene._replace(boxes=boxes, masks=masks, void=void))


def _kept(scene: Scene) -> Scene:
    """The scene without the objects that have left the canvas."""
    sides = scene.boxes[:, 2:] - scene.boxes[:, :2]
    kept = (sides >= _SMALLEST).all(1)
    if kept.all():
        return scene
    masks = None if scene.masks is None else scene.masks[kept]
    return scene._replace(boxes=scene.boxes[kept], labels=scene.labels[kept], masks=masks)


def semantic_map(scene: Scene, size: int) -> np.ndarray:
    """The class of each pixel plus 1, 0 for none and IGNORED for crowds and void pixels: uint8 (size, size).

    Small objects lie above large ones. Without masks the whole canvas is IGNORED.
    """
    if scene.masks is None:
        return np.full((size, size), 0 if not len(scene.boxes) and scene.void is not None else IGNORED, np.uint8)
    found = np.zeros((size, size), np.uint8)
    for n in np.argsort(-scene.masks.sum((1, 2)), kind="stable"):
        found[scene.masks[n]] = IGNORED if scene.labels[n] == CROWD else scene.labels[n] + 1
    if scene.void is not None:
        found[scene.void] = IGNORED
    return found


def _stacked(scenes: Sequence[Scene], size: int) -> Mapping[str, Callable[[], Tensor]]:
    """How each field of a batch is made. Rows are filled up to the most objects of an image."""
    most = max((len(scene.boxes) for scene in scenes), default=0)
    most = max(most, 1)

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
