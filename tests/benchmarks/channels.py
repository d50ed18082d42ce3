"""Two SimCLR views an image of RGB, of one channel and of four, of 8 and of 16 bits: views a second beside 8-bit RGB.

    python tests/benchmarks/channels.py [--images 4000] [--rounds 3] [--other DIR]

Images are noise of 32 and of 256 pixels (cropped to 224), packed as arrays; every kind is measured in turn, in each
round, in a process of its own, and the median counts. With `--other`, a checkout of sslscale, 8-bit RGB is measured
with its code in the same rounds: what the other kinds cost those who have none of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
KINDS = {
    "rgb 8": (3, 8),
    "rgb 16": (3, 16),
    "gray 8": (1, 8),
    "gray 16": (1, 16),
    "bands 8": (4, 8),
    "bands 16": (4, 16),
}


def measure(kind: str, side: int, count: int) -> float:
    """Views a second, of images that are decoded already."""
    from sslscale.data.loader import Loader
    from sslscale.data.samples import open_samples
    from sslscale.data.stream import Stream
    from sslscale.data.write import Sample, write_shards
    from sslscale.settings.augment import AugmentConfig, BlurConfig, JitterConfig
    from sslscale.settings.model import ImageConfig

    channels, bits = KINDS[kind]
    more: dict[str, Any] = {} if kind == "rgb 8" else {"channels": channels, "bits": bits}
    size = 32 if side == 32 else 224
    image = ImageConfig(size=size, mean=(0.5,) * channels, std=(0.25,) * channels, **more)
    view = AugmentConfig(
        crop="resized",
        flip=True,
        jitter=JitterConfig(hue=0.2 if kind == "rgb 8" else 0.0),
        grayscale=0.2,
        blur=BlurConfig() if size > 32 else None,
        count=2,
    )
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder) / "x", "x", samples(rng, kind, side, count, Sample), (), 500)
        stream = Stream(
            "images",
            open_samples(Path(folder) / "x", labels=False),
            batch_size=128,
            seed=0,
            image=image,
            views=(view,),
            fields=(),
            cache=Path(folder) / "cache",
            cache_bytes=8 << 30,
            threads=2,
        )
        stream.make_ready()
        steps = max(5 * count // 128, 20)
        batches = iter(Loader({"images": stream}, steps + 10, threads=2))
        for _ in range(10):
            next(batches)
        started = time.perf_counter()
        for _ in batches:
            pass
        return 2 * 128 * steps / (time.perf_counter() - started)


def samples(rng, kind, side, count, sample):
    """Images as files: RGB of 8 bits as PNG, which every version reads, the others as arrays."""
    import io

    from PIL import Image

    channels, bits = KINDS[kind]
    for number in range(count):
        small = rng.integers(0, 1 << bits, (channels, 8, 8)).astype(np.uint8 if bits == 8 else np.uint16)
        array = small.repeat(side // 8, 1).repeat(side // 8, 2)
        file = io.BytesIO()
        if kind == "rgb 8":
            Image.fromarray(array.transpose(1, 2, 0)).save(file, "PNG")
        else:
            np.save(file, array)
        yield sample(f"{number:06d}", file.getvalue(), "png" if kind == "rgb 8" else "npy", shape=(side, side))


def main() -> int:
    """The command at the top."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--images", type=int, default=4000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--other", type=Path)
    options.add_argument("--measure", nargs=2, metavar=("KIND", "SIDE"), help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.measure:
        kind, side = given.measure[0], int(given.measure[1])
        print(measure(kind, side, given.images if side == 32 else max(given.images // 8, 128)))
        return 0
    for side in (32, 256):
        found: dict[str, list[float]] = {}
        for _ in range(given.rounds):
            for kind in [*KINDS, *(["rgb 8, other"] if given.other else [])]:
                place = given.other.absolute() if kind.endswith("other") else ROOT
                asked = kind.removesuffix(", other")
                words = [sys.executable, __file__, "--images", str(given.images), "--measure", asked, str(side)]
                env = {**os.environ, "PYTHONPATH": str(place)}
                ran = subprocess.run(words, env=env, check=True, stdout=subprocess.PIPE, text=True)
                found.setdefault(kind, []).append(float(ran.stdout.strip().splitlines()[-1]))
        first = statistics.median(found["rgb 8"])
        for kind, rates in found.items():
            rate = statistics.median(rates)
            line = {"side": side, "kind": kind, "views_per_s": round(rate), "beside_rgb_8": round(rate / first, 2)}
            print(json.dumps({**line, "spread": round((max(rates) - min(rates)) / rate, 2)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
