"""Pieces of the photographs that scikit-image and scikit-learn ship, as class folders: the class is the photograph.

    python tests/benchmarks/photographs.py OUT [--side 96] [--train 200] [--test 60]

The left 60 % of a photograph give the pieces of OUT/train, the right 35 % those of OUT/test: no pixel is in both. Needs
scikit-image (`pip install 'sslscale[bench]'`). Small and easy as a data set; it is for pretext tasks that need pixels.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
from pathlib import Path

from PIL import Image

NAMES = (  # those that show things, not textures or text
    "astronaut.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "motorcycle_left.png", "retina.jpg",
    "rocket.jpg", "china.jpg", "flower.jpg",
)  # fmt: skip


def find(name: str) -> Path:
    """A photograph's file in either package."""
    for package, folder in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None and (file := Path(spec.origin).parent / folder / name).exists():
            return file
    raise SystemExit(f"{name} is not there: pip install 'sslscale[bench]'")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--train", type=int, default=200, help="pieces of each photograph")
    parser.add_argument("--test", type=int, default=60)
    options = parser.parse_args()
    chosen = random.Random(0)
    for name in NAMES:
        image = Image.open(find(name)).convert("RGB")
        width, height = image.size
        for split, low, high, count in (("train", 0.0, 0.6, options.train), ("test", 0.65, 1.0, options.test)):
            part = image.crop((round(low * width), 0, round(high * width), height))
            folder = options.out / split / Path(name).stem
            folder.mkdir(parents=True)
            for number in range(count):
                side = min(*part.size, round(options.side * chosen.uniform(1, 1.5)))
                left, top = chosen.randrange(part.width - side + 1), chosen.randrange(part.height - side + 1)
                piece = part.crop((left, top, left + side, top + side)).resize(
                    (options.side,) * 2, Image.Resampling.BICUBIC
                )
                piece.save(folder / f"{number:03}.png")
    print(f"{len(NAMES)} classes, {options.train} and {options.test} pieces of each in {options.out}")


if __name__ == "__main__":
    main()
