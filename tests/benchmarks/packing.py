"""Packing a folder of photographs in one process and in two, each with one thread.

    python tests/benchmarks/packing.py [--images 4000] [--json]

Photographs of 400 x 300 pixels, cut from scikit-learn's, are packed into shards of 100. Rates are of the images between
the first finished shard and the last one, so that the start of Ray's processes does not count; `wall_s` has all of it.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sslscale.cluster.connection import connect, disconnect
from sslscale.data.pack import Task, pack
from sslscale.graph.context import RunContext
from sslscale.graph.resources import Resources
from sslscale.settings.data import PackConfig
from sslscale.stages.pack import run_tasks

SHARD = 100


def photographs(folder: Path, count: int) -> None:
    from sklearn.datasets import load_sample_images

    pictures = [Image.fromarray(image) for image in load_sample_images().images]
    rng = np.random.default_rng(0)
    for number in range(count):
        left, top = int(rng.integers(0, 240)), int(rng.integers(0, 127))
        buffer = io.BytesIO()
        pictures[number % 2].crop((left, top, left + 400, top + 300)).save(buffer, "JPEG", quality=90)
        place = folder / f"class{number % 10}" / f"{number:06d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(buffer.getvalue())


def measure(source: Path, out: Path, workers: int) -> tuple[float, float]:
    """Images a second between the first and the last shard, and the seconds of all."""
    own = out / ".run"
    own.mkdir(parents=True)
    resources = Resources(num_workers=workers, cpus_per_worker=1, gpus_per_worker=0)
    context = RunContext(path=own, root=own, name="pack", resources=resources, threads=1)
    ends: list[float] = []

    class Watched(RunContext):
        def progress(self, done: int, total: int, **shown: float | str) -> None:
            ends.append(time.perf_counter())

    def run(make: Any, tasks: Sequence[Task]) -> None:
        run_tasks(Watched(**vars(context)), make, tasks)

    begun = time.perf_counter()
    pack(PackConfig(source=str(source), shard_size=SHARD), out, threads=1, run=run)
    wall = time.perf_counter() - begun
    return SHARD * (len(ends) - 1) / (ends[-1] - ends[0]), wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        photographs(work / "photographs", options.images)
        connect()
        try:
            found = {workers: measure(work / "photographs", work / str(workers), workers) for workers in (1, 2)}
        finally:
            disconnect()
    rows: dict[str, float] = {}
    for workers, (rate, wall) in found.items():
        rows |= {f"images_per_s_{workers}": rate, f"wall_s_{workers}": wall}
    rows["ratio"] = found[2][0] / found[1][0]
    print(json.dumps(rows) if options.json else "\n".join(f"{name:20} {value:,.4g}" for name, value in rows.items()))


if __name__ == "__main__":
    main()
