"""An image with annotated objects on a square canvas: its boxes and masks move with its pixels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sslscale.data import decode, geometry
from sslscale.data.objects import Counts, Objects, decode_mask
from sslscale.data.preparation import power_of_two
from sslscale.shapes import Float, UInt8

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
