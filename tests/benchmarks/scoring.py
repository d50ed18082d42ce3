"""The scoring stage at one worker against a bare forward loop over the same decoded batches, in one run.

    python tests/benchmarks/scoring.py SHARDS [--model wrn_10_1] [--repeats 3] [--workers] [--json]

SHARDS is a folder that `sslscale data pack` wrote. Scoring is timed warm (the decoded cache is there) and cold (it
decodes, checks every shard's checksum and writes its tables in both cases). Ratios are of images/s, scoring over bare.
--workers compares one process with two, one thread each, from the first fifth of the shards on (their start aside); it
needs 40 shards, since two that end together would count as one's time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from sslscale.cluster.connection import connect, disconnect
from sslscale.data.augment import normalize
from sslscale.data.images import Images
from sslscale.data.samples import open_samples
from sslscale.graph.artifacts import Checkpoint, Dataset
from sslscale.graph.context import RunContext
from sslscale.graph.resources import Resources
from sslscale.nn.classifier import build_classifier, num_parameters
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.pseudo import ScoreConfig
from sslscale.stages.score import score
from sslscale.train import checkpoint


class Watched(RunContext):
    """Notes when how many images were scored."""

    seen: ClassVar[list[tuple[float, int]]] = []

    def progress(self, done: int, total: int, **shown: float | str) -> None:
        if done >= total / 5:
            self.seen.append((time.perf_counter(), done))


def with_workers(root: Path, count: int, teacher: Checkpoint, data: Dataset, number: int) -> float:
    """Images a second of the stage with so many processes of one thread."""
    path = root / f"workers-{count}-{number}"
    path.mkdir()
    resources = Resources(num_workers=count, cpus_per_worker=1)
    Watched.seen.clear()
    context = Watched(path=path, root=root, name="score", resources=resources, threads=1)
    score(context, ScoreConfig(), teacher=teacher, data=data)
    (first, before), (last, after) = Watched.seen[0], Watched.seen[-1]
    return (after - before) / (last - first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--model", default="wrn_10_1")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    root = Path(tempfile.mkdtemp())
    samples = open_samples(options.shards / "unlabeled", labels=False)
    classes = samples.index.classes
    config, image = ModelConfig(name=options.model), ImageConfig(size=options.size)
    network = build_classifier(config, len(classes))
    (root / "teacher").mkdir()
    checkpoint.save_model(root / "teacher", network, checkpoint.describe_model(network, config, image, classes))
    teacher = Checkpoint(path=str(root / "teacher"), num_parameters=num_parameters(network), step=0)
    data = Dataset(path=str(options.shards.absolute()), num_samples={}, classes=classes)
    network, _ = checkpoint.load_model(root / "teacher")

    if options.workers:
        if len(samples.shards) < 40:
            parser.error(f"{len(samples.shards)} shards are too few: pack them with a smaller --shard-size")
        torch.set_num_threads(1)
        connect()
        with_workers(root, 1, teacher, data, -1)  # decodes
        found = [[with_workers(root, n, teacher, data, r) for n in (1, 2)] for r in range(options.repeats)]
        disconnect()
        times = statistics.median(two / one for one, two in found)
        print(f"1 worker {found[-1][0]:,.0f} images/s, 2 workers {found[-1][1]:,.0f}: {times:.2f} times")
        return

    def stage(number: int) -> float:
        ctx = RunContext(path=root / f"score-{number}", root=root, name="score", resources=Resources(), threads=threads)
        ctx.path.mkdir()
        started = time.perf_counter()
        score(ctx, ScoreConfig(batch_size=options.batch_size), teacher=teacher, data=data)
        return len(samples) / (time.perf_counter() - started)

    cold = stage(0)
    opened = Images(samples.shards, image.size, cache=root / "cache", cache_bytes=8 << 30, threads=threads)
    pixels = opened.fetch(*samples.places())

    def bare() -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            for start in range(0, len(pixels), options.batch_size):
                batch = normalize(pixels[start : start + options.batch_size], image.mean, image.std)
                network(batch).float().softmax(-1)
        return len(pixels) / (time.perf_counter() - started)

    rates = [(stage(number), bare()) for number in range(1, options.repeats + 1)]
    assert np.all(np.isfinite(rates))
    result = {
        "images": len(samples),
        "scoring": statistics.median(a for a, _ in rates),
        "bare": statistics.median(b for _, b in rates),
        "ratio": statistics.median(a / b for a, b in rates),
        "cold": cold,
        "cold_ratio": cold / statistics.median(b for _, b in rates),
    }
    for name, value in result.items():
        print(f"{name:12} {value:,.3f}")
    if options.json:
        print(json.dumps(result))
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
