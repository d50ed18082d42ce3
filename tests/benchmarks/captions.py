"""Captions for images with classes, as CSV files: path, label, caption.

    python tests/benchmarks/captions.py DATA OUT [--wrong 0.1] [--seed 0]

DATA is a folder with train/ and test/, each a folder a class, such as CIFAR-10's; its images stay where they are. Each
caption is one of several sentences with one of the class's words; in a share `--wrong` of those in OUT/train.csv it is
another class's. Those in OUT/test.csv are right.

    python tests/benchmarks/captions.py digits OUT [--wrong 0.4] [--turn 25] [--seed 0]

writes half of scikit-learn's digits and OUT/train.csv with their captions; a quarter each as class folders to
OUT/adapt and OUT/test, turned by so many degrees: another domain, that of `configs/reclip/digits.yaml`.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

WORDS = {
    "airplane": ("airplane", "plane", "jet", "aircraft"),
    "automobile": ("automobile", "car", "sedan"),
    "bird": ("bird", "small bird", "sparrow"),
    "cat": ("cat", "kitten", "house cat"),
    "deer": ("deer", "stag", "fawn"),
    "dog": ("dog", "puppy", "hound"),
    "frog": ("frog", "toad"),
    "horse": ("horse", "pony", "stallion"),
    "ship": ("ship", "boat", "vessel"),
    "truck": ("truck", "lorry", "big truck"),
}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SENTENCES = (
    "a photo of a {}",
    "a small picture of a {}",
    "this is a {}",
    "a blurry photo of one {}",
    "look at this {}!",
    "a {} seen from the side",
    "there is a {} in the middle of the image",
    "my favourite {}",
)


def write_table(out: Path, images: Iterable[tuple[Path, str]], classes: list[str], wrong: float, seed: int) -> None:
    """Write a CSV of these images, each a path and a class."""
    chosen = random.Random(seed)
    count, mistaken = 0, 0
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "caption"])
        for path, name in images:
            said = name
            if chosen.random() < wrong:
                said = chosen.choice([other for other in classes if other != name])
            word = chosen.choice(WORDS.get(said, (said.replace("_", " "),)))
            table.writerow([path.absolute(), name, chosen.choice(SENTENCES).replace("{}", word)])
            count, mistaken = count + 1, mistaken + (said != name)
    print(f"{out}: {count:,} captions, {mistaken:,} of them of another class")


def of_folders(data: Path, out: Path, wrong: float, seed: int) -> None:
    """Captions of the images in two folders of class folders."""
    for split, share in (("train", wrong), ("test", 0.0)):
        classes = sorted(folder.name for folder in (data / split).iterdir() if folder.is_dir())
        images = ((image, name) for name in classes for image in sorted((data / split / name).iterdir()))
        write_table(out / f"{split}.csv", images, classes, share, seed)


def of_digits(out: Path, wrong: float, turn: float, seed: int) -> None:
    """scikit-learn's digits: half with captions, the rest turned."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    order = np.random.default_rng(seed).permutation(len(found.target))
    pixels = (found.images * (255 / 16)).round().astype("uint8")
    half, rest = np.split(order, [len(order) // 2])
    captioned = []
    for part, numbers in (("images", half), ("adapt", rest[::2]), ("test", rest[1::2])):
        for number in numbers.tolist():
            name = DIGITS[found.target[number]]
            path = out / part / name / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(pixels[number])
            if part == "images":
                captioned.append((path, name))
            else:  # enlarged first, or a turn of 8 pixels would tear them
                large = image.resize((32, 32), Image.Resampling.BICUBIC).rotate(turn, Image.Resampling.BILINEAR)
                image = large.resize((8, 8), Image.Resampling.BOX)
            image.save(path)
    write_table(out / "train.csv", captioned, list(DIGITS), wrong, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--wrong", type=float)
    parser.add_argument("--turn", type=float, default=25.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.data == "digits":
        wrong = 0.4 if options.wrong is None else options.wrong
        of_digits(options.out, wrong, options.turn, options.seed)
    else:
        of_folders(Path(options.data), options.out, 0.1 if options.wrong is None else options.wrong, options.seed)


if __name__ == "__main__":
    main()
