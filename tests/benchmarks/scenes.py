"""Scenes of handwritten digits with exact boxes and masks, on cluttered ground, in COCO's format.

    python tests/benchmarks/scenes.py OUT [--train 300] [--unlabeled 600] [--test 300] [--side 128] [--seed 0]

Each scene has 2 to 5 of scikit-learn's real handwritten digits, 18 to 44 pixels high, in a random colour, over one
another at most by a quarter, on a ground of coloured noise with bars and blots that are nobody's. The digits of the
test scenes are none of the others'. OUT/train and OUT/test have the images, OUT/train.json and OUT/test.json the
annotations, OUT/unlabeled images alone; OUT/digits has the digits of the training scenes by class.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter


def ground(rng: np.random.Generator, side: int) -> np.ndarray:
    """Smooth coloured noise, with bars and blots: float (side, side, 3) in 0 .. 255."""
    small = rng.uniform(40, 215, (4, 4, 3)).astype(np.uint8)
    found = np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)).astype(float)
    for _ in range(rng.integers(3, 9)):
        mask = np.zeros((side, side), np.uint8)
        y, x = rng.integers(0, side, 2)
        tall, wide = (rng.integers(2, 6), rng.integers(12, 40))[:: rng.choice([-1, 1])]
        mask[y : y + tall, x : x + wide] = 255
        turned = Image.fromarray(mask).rotate(rng.uniform(0, 180), resample=Image.Resampling.BILINEAR)
        alpha = np.asarray(turned.filter(ImageFilter.GaussianBlur(0.7)))[..., None] / 255 * rng.uniform(0.4, 1)
        found = found * (1 - alpha) + rng.uniform(0, 255, 3) * alpha
    return found + rng.normal(0, rng.uniform(2, 14), found.shape)


def scene(rng: np.random.Generator, digits: np.ndarray, labels: np.ndarray, side: int) -> tuple[Image.Image, list[Any]]:
    """An image, and for each of its digits the class and the mask, bool (side, side)."""
    canvas = ground(rng, side)
    taken = np.zeros((side, side), bool)
    objects: list[Any] = []
    wanted = rng.integers(2, 6)
    for _ in range(40):
        if len(objects) == wanted:
            break
        number = rng.integers(len(digits))
        height = int(rng.uniform(18, 44) * side / 128)
        glyph = Image.fromarray((digits[number] * (255 / 16)).astype(np.uint8))
        glyph = glyph.resize((height, height), Image.Resampling.BICUBIC).rotate(rng.uniform(-12, 12))
        ink = np.asarray(glyph) / 255
        y, x = rng.integers(0, side - height, 2)
        mask = np.zeros((side, side), bool)
        mask[y : y + height, x : x + height] = ink > 0.4
        if mask.sum() < 20 or (mask & taken).sum() > 0.25 * mask.sum():
            continue
        alpha = np.zeros((side, side, 1))
        alpha[y : y + height, x : x + height, 0] = np.clip(ink * 1.6 - 0.2, 0, 1)
        around = canvas[mask].mean(0)
        colour = rng.uniform(0, 255, 3)
        while np.abs(colour - around).sum() < 160:
            colour = rng.uniform(0, 255, 3)
        canvas = canvas * (1 - alpha) + colour * alpha
        for other in objects:
            other["mask"] &= ~mask
        taken |= mask
        objects.append({"label": int(labels[number]), "mask": mask})
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8)), [o for o in objects if o["mask"].sum() >= 20]


def write(out: Path, name: str, count: int, rng: np.random.Generator, data: Any, side: int) -> None:
    """OUT/NAME with so many scenes; and their annotations, unless they are to be unlabelled."""
    folder = out / name
    folder.mkdir(parents=True)
    images, annotations = [], []
    for number in range(count):
        image, objects = scene(rng, data[0], data[1], side)
        image.save(folder / f"{number:05d}.png")
        images.append({"id": number, "file_name": f"{number:05d}.png", "height": side, "width": side})
        for found in objects:
            rows, columns = np.flatnonzero(found["mask"].any(1)), np.flatnonzero(found["mask"].any(0))
            left, top = int(columns[0]), int(rows[0])
            flat = found["mask"].T.reshape(-1)
            ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
            runs = np.diff(np.concatenate([[0], ends, [len(flat)]])).tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": found["label"] + 1,
                    "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                    "area": int(found["mask"].sum()),
                    "iscrowd": 0,
                    "segmentation": {"size": [side, side], "counts": [0, *runs] if flat[0] else runs},
                }
            )
    if name != "unlabeled":
        categories = [{"id": digit + 1, "name": str(digit)} for digit in range(10)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (out / f"{name}.json").write_text(json.dumps(content))


def write_digits(out: Path, digits: np.ndarray, labels: np.ndarray) -> None:
    """OUT/CLASS/NUMBER.png."""
    for number, (pixels, label) in enumerate(zip(digits, labels.tolist(), strict=True)):
        (out / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * (255 / 16)).astype(np.uint8)).save(out / str(label) / f"{number:04d}.png")


def main() -> None:
    """Write the three parts."""
    from sklearn.datasets import load_digits

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for name, count in (("train", 300), ("unlabeled", 600), ("test", 300), ("side", 128), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=count)
    options = parser.parse_args()
    found: Any = load_digits()
    held = np.arange(len(found.images)) % 4 == 0
    rng = np.random.default_rng([options.seed, 0x5CE])
    for name, own in (("train", ~held), ("unlabeled", ~held), ("test", held)):
        data = found.images[own], found.target[own]
        write(options.out, name, getattr(options, name), rng, data, options.side)
    write_digits(options.out / "digits", found.images[~held], found.target[~held])


if __name__ == "__main__":
    main()
