"""k-means beside faiss on the same rows: time, inertia; and memory against the number of rows.

    pip install -c infra/constraints.txt -e '.[bench]' && python tests/benchmarks/kmeans.py

Both run 20 iterations from centroids drawn at random, on all rows, with the same threads, turn by turn. The rows are a
mixture of 1,500 Gaussians, scaled to length 1, in float16 files as the stage reads them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sslscale.data.features import Features
from sslscale.train import kmeans

ITERATIONS, FILE = 20, 10_000
CPU = torch.device("cpu")


def write(folder: Path, rows: int, dim: int) -> None:
    """Files of features, each made from its own seed."""
    centres = np.random.default_rng(0).normal(size=(1500, dim)).astype(np.float32)
    (folder / "labeled").mkdir(parents=True)
    for number, start in enumerate(range(0, rows, FILE)):
        rng = np.random.default_rng([1, number])
        part = centres[rng.integers(0, 1500, min(FILE, rows - start))]
        part = part + rng.normal(size=part.shape).astype(np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        np.save(folder / "labeled" / f"features-{number:06d}.npy", part.astype(np.float16))


def ours(folder: Path, k: int, seed: int, iterations: int = ITERATIONS) -> tuple[float, float]:
    """Seconds and inertia."""
    started = time.perf_counter()
    found = Features(folder, ("labeled",))
    rng = np.random.default_rng(seed)
    numbers = np.sort(rng.choice(len(found), min(len(found), 64 * k), replace=False))
    sample = found.take(numbers // FILE, numbers % FILE)
    centroids, inertia = kmeans.first_centroids(sample, k, init="sample", generator=rng), 0.0
    for _ in range(iterations):
        files = (found.file(number) for number in range(len(found.files)))
        total = kmeans.partial(files, centroids, normalize=True, device=CPU)
        centroids, _ = kmeans.update(centroids, total, spherical=False)
        inertia = total.inertia
    return time.perf_counter() - started, inertia


def theirs(folder: Path, k: int, seed: int) -> tuple[float, float]:
    """Seconds and inertia; faiss has the rows in memory as float32 before the clock starts."""
    faiss: Any = importlib.import_module("faiss")

    rows = Features(folder, ("labeled",)).read()
    started = time.perf_counter()
    found = faiss.Kmeans(rows.shape[1], k, niter=ITERATIONS, seed=seed + 1, max_points_per_centroid=1 << 30)
    found.train(rows)
    return time.perf_counter() - started, float(np.asarray(found.obj)[-1])


def peak(folder: str, k: int, threads: int, queue: multiprocessing.Queue[float]) -> None:
    """The peak resident memory of two iterations in a process of their own, MiB."""
    torch.set_num_threads(threads)
    ours(Path(folder), k, 0, iterations=2)
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--k", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    faiss: Any = importlib.import_module("faiss")

    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "faiss": []}
    memory: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "rows"
        write(folder, options.rows, options.dim)
        for seed in range(options.repeats):
            found["faiss"].append(theirs(folder, options.k, seed))
            found["ours"].append(ours(folder, options.k, seed))
        context = multiprocessing.get_context("spawn")
        for rows in (options.rows, 10 * options.rows):
            place = Path(name) / str(rows)
            write(place, rows, options.dim)
            queue = context.Queue()
            process = context.Process(target=peak, args=(str(place), options.k, options.threads, queue))
            process.start()
            memory[rows] = queue.get()
            process.join()
    ratio = statistics.median(a[0] / b[0] for a, b in zip(found["ours"], found["faiss"], strict=True))
    worse = statistics.mean(a[1] / b[1] for a, b in zip(found["ours"], found["faiss"], strict=True)) - 1
    print(f"{options.rows:,} rows of {options.dim}, {options.k:,} clusters, {options.threads} threads")
    for who, runs in found.items():
        print(f"  {who:6} {statistics.median(r[0] for r in runs):6.1f} s   inertia {runs[0][1]:,.0f}")
    print(f"  time {ratio:.2f} of faiss's, inertia {100 * worse:+.2f} %")
    print("  peak memory " + ", ".join(f"{rows:,} rows: {mib:,.0f} MiB" for rows, mib in memory.items()))
    if options.json:
        print(json.dumps({"time_ratio": ratio, "inertia": worse, "peak_mib": memory, **found}))


if __name__ == "__main__":
    main()
