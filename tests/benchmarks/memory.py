"""Resident memory of the loader against the size of the data set, on synthetic shards.

    python tests/benchmarks/memory.py [--samples 10000,100000,1000000,2000000] [--steps 2000] [--json]

Each size is written as shards of 1,000 images of 8 x 8 pixels (2 GB for 2 million), decoded into the cache in one
process and read by another, whose resident memory is taken after `steps` batches of 256: all of VmRSS, file pages too.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from sslscale.data.write import Sample, write_shards
from sslscale.storage.scratch import Local


def synthetic(count: int) -> Iterator[Sample]:
    images = []
    for number in range(64):
        buffer = io.BytesIO()
        noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(noise).save(buffer, "PNG")
        images.append(buffer.getvalue())
    for number in range(count):
        yield Sample(f"s{number:08d}", images[number % 64], "png")


def read(folder: Path, cache: Path, steps: int) -> None:
    """Run in a process of its own: read batches, then print what the process holds."""
    import torch

    from sslscale.data.loader import Loader, Stream
    from sslscale.data.samples import open_samples
    from sslscale.settings.augment import AugmentConfig, JitterConfig
    from sslscale.settings.model import ImageConfig

    torch.set_num_threads(1)
    started = time.perf_counter()
    stream = Stream(
        "unlabeled",
        open_samples(folder, labels=False, local=Local(cache)),
        batch_size=256,
        seed=0,
        image=ImageConfig(size=8),
        views=[AugmentConfig(crop="resized", jitter=JitterConfig(), count=2)],
        cache=cache,
        cache_bytes=8 << 30,
        threads=2,
    )
    opened = time.perf_counter()
    for _ in Loader({"unlabeled": stream}, steps, threads=2):
        pass
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    held = {name: int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon")}
    rate = 256 * steps / (time.perf_counter() - opened)
    print(json.dumps({**held, "open_s": opened - started, "images_per_s": rate}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", default="10000,100000,1000000,2000000")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--read", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        read(Path(options.read[0]), Path(options.read[1]), options.steps)
        return
    result = {}
    for count in map(int, options.samples.split(",")):
        with tempfile.TemporaryDirectory() as work:
            folder, cache = Path(work) / "shards", Path(work) / "cache"
            write_shards(folder, "x", synthetic(count), (), 1000)
            command = [sys.executable, __file__, "--read", str(folder), str(cache), "--steps"]
            subprocess.run([*command, "1"], check=True, stdout=subprocess.DEVNULL)
            done = subprocess.run([*command, str(options.steps)], check=True, stdout=subprocess.PIPE, text=True)
            row = json.loads(done.stdout.splitlines()[-1])
        result[str(count)] = row
        first = next(iter(result.values()))
        print(
            f"{count:10,} samples: {row['VmRSS']:7.1f} MiB ({row['VmRSS'] / first['VmRSS'] - 1:+.1%}), "
            f"opened in {row['open_s']:.1f} s, {row['images_per_s']:,.0f} images/s",
            flush=True,
        )
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
