"""Lines of numbers or of Vietnamese words, set in the fonts that come with matplotlib, as image and text files.

    python tests/benchmarks/text_lines.py OUT [--texts numbers] [--train 2000] [--test 400] [--seed 0]

Each line is a number of 3 to 7 digits, or with `--texts words` a word or two or a number, in one of four fonts, on
uneven paper, blurred, noisy and slightly turned, 24 to 40 pixels high. OUT/train and
OUT/test have KEY.png and KEY.txt; OUT/held_out has lines of a font that the others lack.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

WORDS = [
    "ăn",
    "uống",
    "nước",
    "sông",
    "núi",
    "trời",
    "đất",
    "biển",
    "đường",
    "phố",
    "chợ",
    "hoa",
    "quả",
    "gạo",
    "cơm",
    "phở",
    "bún",
    "cá",
    "thịt",
    "gà",
    "trâu",
    "ngựa",
    "mèo",
    "chó",
    "chim",
    "một",
    "hai",
    "ba",
    "bốn",
    "năm",
    "sáu",
    "bảy",
    "tám",
    "chín",
    "mười",
    "xanh",
    "đỏ",
    "trắng",
    "vàng",
    "tím",
    "học",
    "viết",
    "đọc",
    "nghe",
    "nói",
    "cười",
    "khóc",
    "ngủ",
    "chạy",
    "mẹ",
    "cha",
    "ông",
    "bà",
    "anh",
    "chị",
    "em",
    "bạn",
    "thầy",
    "cô",
    "người",
    "nhà",
    "cửa",
    "sổ",
    "bàn",
    "ghế",
    "giường",
    "sách",
    "vở",
    "bút",
    "giấy",
    "mưa",
    "nắng",
    "gió",
    "bão",
    "lũ",
]
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif")
HELD_OUT = ("DejaVuSerif-Italic",)


def a_text(texts: str, rng: Any) -> str:
    """A number, or of words a word or two, or a number."""
    if texts == "numbers":
        return "".join(map(str, rng.integers(0, 10, rng.integers(3, 8))))
    if rng.random() < 0.25:
        return str(rng.integers(0, 10 ** rng.integers(2, 7)))
    return " ".join(rng.choice(WORDS, rng.integers(1, 3)))


def a_line(text: str, fonts: tuple[str, ...], rng: Any) -> Any:
    """A picture of a text, uint8 (height, width, 3)."""
    import matplotlib
    import numpy as np
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    height = int(rng.integers(24, 41))
    place = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{rng.choice(fonts)}.ttf"
    font = ImageFont.truetype(str(place), round(height * rng.uniform(0.5, 0.62)))
    left, top, right, bottom = font.getbbox(text)
    margin = rng.uniform(2, 6, 2)
    width = round(right - left + 2 * margin[0])
    ink = Image.new("L", (width, height))
    ImageDraw.Draw(ink).text((margin[0] - left, (height - bottom - top) / 2), text, 255, font)
    ink = ink.rotate(rng.uniform(-1.5, 1.5), Image.Resampling.BILINEAR)
    ink = ink.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.0)))
    paper = Image.fromarray(rng.uniform(0, 255, (3, 6)).astype("uint8")).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    light = rng.uniform(150, 235) + (np.asarray(paper, float) - 128) * rng.uniform(0, 0.25)
    strength = rng.uniform(0.45, 0.9) * np.asarray(ink, float) / 255
    gray = light * (1 - strength) + rng.normal(0, rng.uniform(2, 12), (height, width))
    tint = rng.uniform(0.92, 1.0, 3)
    return (gray[..., None] * tint).clip(0, 255).astype(np.uint8)


def write_lines(out: Path, count: int, fonts: tuple[str, ...], rng: Any, texts: str = "words") -> None:
    """Write so many lines, with their transcripts."""
    from PIL import Image

    out.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        text = a_text(texts, rng)
        Image.fromarray(a_line(text, fonts, rng)).save(out / f"{number:05}.png")
        (out / f"{number:05}.txt").write_text(text + "\n", "utf-8")


def main() -> None:
    import numpy as np

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--texts", choices=("numbers", "words"), default="numbers")
    parser.add_argument("--test", type=int, default=400, help="and as many of the held-out font")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    write_lines(options.out / "train", options.train, FONTS, rng, options.texts)
    write_lines(options.out / "test", options.test, FONTS, rng, options.texts)
    write_lines(options.out / "held_out", options.test, HELD_OUT, rng, options.texts)
    print(f"{options.train:,} lines, and {options.test:,} twice to test, in {options.out}")


if __name__ == "__main__":
    main()
