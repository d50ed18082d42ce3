"""Milliseconds to decode one JPEG photograph, by library, at full size and at a half and a quarter of it.

    pip install -c infra/constraints.txt -e '.[bench]' && pip install opencv-python-headless simplejpeg
    python tests/benchmarks/decoders.py [--json]

Photographs of scikit-learn at 640 x 427 and enlarged 2.5 times; one thread. What `data/decode.py` does follows from it.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.io import ImageReadMode, decode_jpeg


def by_torchvision(data: bytes) -> Any:
    return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)


def by_pil(fraction: int) -> Callable[[bytes], Any]:
    def decode(data: bytes) -> Any:
        image = Image.open(io.BytesIO(data))
        if fraction > 1:
            image.draft("RGB", (image.width // fraction, image.height // fraction))
        return np.asarray(image.convert("RGB"))

    return decode


def by_opencv(fraction: int) -> Callable[[bytes], Any]:
    cv2: Any = importlib.import_module("cv2")
    flag = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}[fraction]
    return lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), flag)


def by_simplejpeg(fraction: int) -> Callable[[bytes], Any]:
    library: Any = importlib.import_module("simplejpeg")

    def decode(data: bytes) -> Any:
        height, width, _, _ = library.decode_jpeg_header(data)
        return library.decode_jpeg(data, min_height=height // fraction, min_width=width // fraction, min_factor=1)

    return library.decode_jpeg if fraction == 1 else decode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, float] = {}
    for scale in (1.0, 2.5):
        encoded = []
        for pixels in load_sample_images().images:
            image, buffer = Image.fromarray(pixels), io.BytesIO()
            image.resize((int(image.width * scale), int(image.height * scale))).save(buffer, "JPEG", quality=90)
            encoded.append(buffer.getvalue())
        for fraction in (1, 2, 4):
            decoders = {"PIL": by_pil(fraction)}
            if fraction == 1:
                decoders["torchvision"] = by_torchvision
            for name, make in (("OpenCV", by_opencv), ("simplejpeg", by_simplejpeg)):
                try:
                    decoders[name] = make(fraction)
                except ImportError:
                    print(f"{name} is not installed")
            for name, decode in decoders.items():
                best = float("inf")
                for _ in range(10):
                    started = time.perf_counter()
                    for data in encoded:
                        decode(data)
                    best = min(best, (time.perf_counter() - started) / len(encoded))
                key = f"{int(640 * scale)} px, 1/{fraction}: {name}"
                result[key] = best * 1000
                print(f"{key:32} {best * 1000:6.2f} ms")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
