"""AutoAugment for images with boxes (Zoph et al. 2019, arXiv:1906.11172): policy v0 of the authors' code.

It is applied on the host, to the canvas: an operation on what is inside the boxes needs the boxes as the operation
before it left them. Lengths in pixels, which the authors give for images of about 640, are shares of the canvas.
"""

from __future__ import annotations

import numpy as np
import torch

from sslscale.data import augment, geometry, ops
from sslscale.data.scene import Scene, moved
from sslscale.settings.augment import RandAugmentConfig

# operation, probability, magnitude of 10
V0: tuple[tuple[tuple[str, float, float], ...], ...] = (
    (("translate_x", 0.6, 4), ("equalize", 0.8, 10)),
    (("translate_y_in_boxes", 0.2, 2), ("cutout", 0.8, 8)),
    (("sharpness", 0.0, 8), ("shear_x", 0.4, 0)),
    (("shear_y", 1.0, 2), ("translate_y_in_boxes", 0.6, 6)),
    (("rotate", 0.6, 10), ("color", 1.0, 6)),
)
_TRANSLATE, _TRANSLATE_IN_BOXES, _CUTOUT = 250 / 640, 120 / 640, 100 / 640
_IN_BOXES = 3  # an operation inside the boxes is drawn for each box, with its probability divided by this


def autoaugment(scene: Scene, rng: np.random.Generator) -> Scene:
    """One of the policy's five pairs of operations, each with its probability."""
    for name, probability, magnitude in V0[rng.integers(len(V0))]:
        if name == "translate_y_in_boxes":
            scene = _translate_in_boxes(scene, magnitude, probability / _IN_BOXES, rng)
        elif rng.random() < probability:
            scene = _operate(scene, name, magnitude, rng)
    return scene


def _operate(scene: Scene, name: str, magnitude: float, rng: np.random.Generator) -> Scene:
    size, images = scene.pixels.shape[-1], scene.pixels[None]
    sign = torch.tensor([1.0 if rng.random() < 0.5 else -1.0])
    own = RandAugmentConfig(magnitude=magnitude, translate=_TRANSLATE)
    if name in augment.MOVES:
        matrix = augment.MOVES[name](sign, own, size, size)
        pixels = geometry.affine(images, matrix)[0]
        return moved(scene._replace(pixels=pixels), size, mirrored=False, matrix=geometry.squared(matrix)[0])
    if name == "cutout":
        x, y = (torch.tensor([float(rng.random())]) for _ in range(2))
        half = torch.tensor([round(magnitude / 10 * _CUTOUT * size)])
        return scene._replace(pixels=geometry.cutout(images, x, y, half)[0])
    if name == "equalize":
        return scene._replace(pixels=ops.equalize(images)[0])
    enhance = {"color": ops.saturation, "sharpness": ops.sharpness}[name]
    return scene._replace(pixels=enhance(images, torch.tensor([magnitude / 10 * 1.8 + 0.1]))[0])


def _translate_in_boxes(scene: Scene, magnitude: float, probability: float, rng: np.random.Generator) -> Scene:
    """Move what is inside some boxes up or down; the boxes stay, as in the authors' code, and what is empty is gray.

    Masks move with their pixels, if these lie in their own box."""
    size = scene.pixels.shape[-1]
    pixels = scene.pixels.clone()
    masks = None if scene.masks is None else scene.masks.copy()
    for n, box in enumerate(scene.boxes.round().astype(int).clip(0, size)):
        down = round(magnitude / 10 * _TRANSLATE_IN_BOXES * size) * (1 if rng.random() < 0.5 else -1)
        if rng.random() >= probability:
            continue
        x0, y0, x1, y1 = box.tolist()
        inside = pixels[:, y0:y1, x0:x1]
        pixels[:, y0:y1, x0:x1] = _shifted(inside, down, geometry.GRAY)
        if masks is not None:
            own = torch.from_numpy(masks[n : n + 1, y0:y1, x0:x1].astype(np.uint8))
            masks[n, y0:y1, x0:x1] = _shifted(own, down, 0)[0].bool().numpy()
    return scene._replace(pixels=pixels, masks=masks)


def _shifted(part: torch.Tensor, down: int, fill: int) -> torch.Tensor:
    """A part of an image (channels, h, w) moved down, or up, by so many rows."""
    found = torch.full_like(part, fill)
    height = part.shape[1]
    if abs(down) < height:
        found[:, max(down, 0) : height + min(down, 0)] = part[:, max(-down, 0) : height - max(down, 0)]
    return found
