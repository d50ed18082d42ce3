"""Noisy Student at sizes that no one has at hand: time, cost, shards, memory and requests, and what breaks first.

    python tests/benchmarks/simulate.py [--images 130e6,300e6] [--gpus 8,64,512] [--train-rate 1400] [--score-rate 5500]
                                        [--price 2.5] [--check CIFAR_FOLDER] [--json]

Rates are images a second of one GPU, from tests/benchmarks/gpu.py there. What the program itself costs (`Costs`) was
measured on 2 CPU cores by ten_million.py and driver.py. --check measures one and two workers of this machine (as
scaling.py does) and sets what the same model says of two beside what they did.

The model. A training step on N workers takes its compute, plus what the ring all-reduce of the gradients
(2 (N - 1) / N * bytes / bandwidth) takes longer than the backward pass it hides behind (two thirds of the step), plus
`latency` for each doubling of N. Scoring is a list of S equal shards on N workers: ceil(S / N) rounds; within a share w
of linear if S >= N / w. A shard is one request to read, and one call of the driver. Each process of a student keeps the
pseudo-labels of all images that it learns from; each of a pre-training, an entry for every image.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """What a worker does, and what lies between workers."""

    train_rate: float  # images a second, forward and backward
    score_rate: float
    bandwidth: float  # bytes a second of the ring
    latency: float  # seconds a step, for each doubling of the workers
    price: float  # of a worker's hour


@dataclass(frozen=True)
class Run:
    """One round: the unlabelled images, what the student sees, its network and batch."""

    images: float
    kept: float  # share of the images above the threshold, repeats counted
    epochs: float
    weights: float
    batch: int  # of a worker


@dataclass(frozen=True)
class Costs:
    """What sslscale costs: bytes of each process, and calls of the driver."""

    selected: float = 62.6  # bytes a pseudo-labelled sample, 1,000 classes of which 10 are kept (ten_million.py)
    listed: float = 20.7  # bytes an image of a data set (ten_million.py)
    calls: float = 870  # shards a second that the driver gives to processes (driver.py)
    item: float = 150  # bytes of the driver a shard of a stage (driver.py)


@dataclass(frozen=True)
class Node:
    """A machine of the cluster."""

    memory: float = 1e12  # bytes
    gpus: int = 8


def limits(machine: Machine, run: Run, workers: int, costs: Costs, node: Node) -> dict[str, tuple[float, str]]:
    """For each thing that may break, the share of its limit that is used, and the size at which it breaks.

    Memory breaks when the processes of a node need half of it; the driver, when giving out shards takes a tenth of the
    time that scoring them does.
    """
    a_shard = run.images / max(shards_for(workers), math.ceil(run.images / 10_000))
    processes = min(node.gpus, workers)
    student = processes * costs.selected * run.images * run.kept / (node.memory / 2)
    listed = processes * costs.listed * run.images / (node.memory / 2)
    calls = workers * machine.score_rate / a_shard / (costs.calls / 10)
    return {
        "memory of a student's nodes": (student, f"{run.images / student / 1e6:,.0f}M images"),
        "memory of a pre-training's nodes": (listed, f"{run.images / listed / 1e6:,.0f}M images"),
        "calls of the driver when scoring": (calls, f"{workers / calls:,.0f} GPUs"),
    }


def step_seconds(machine: Machine, run: Run, workers: int) -> float:
    """One training step of the global batch workers * run.batch."""
    compute = run.batch / machine.train_rate
    if workers == 1:
        return compute
    ring = 2 * (workers - 1) / workers * 4 * run.weights / machine.bandwidth
    return compute + max(ring - compute * 2 / 3, 0) + machine.latency * math.log2(workers)


def shards_for(workers: int, within: float = 0.1) -> int:
    """The fewest shards that keep scoring within a share of linear, whatever the last round holds."""
    return math.ceil(workers / within)


def simulate(machine: Machine, run: Run, workers: int, costs: Costs = Costs()) -> dict[str, float]:
    """Hours, cost and the rest of one round on so many workers."""
    seen = run.images * run.kept * run.epochs
    step = step_seconds(machine, run, workers)
    train = seen / (run.batch * workers) * step
    shards = max(shards_for(workers), math.ceil(run.images / 10_000))
    score = math.ceil(shards / workers) * (run.images / shards / machine.score_rate)
    hours = (train + score) / 3600
    return {
        "train_h": train / 3600,
        "score_h": score / 3600,
        "cost": hours * workers * machine.price,
        "train_efficiency": run.batch / machine.train_rate / step,
        "score_efficiency": run.images / machine.score_rate / workers / score,
        "shards": shards,
        "images_a_shard": run.images / shards,
        "driver_mib": (shards * costs.item + run.images * costs.listed) / 2**20,
        "student_mib": run.images * run.kept * costs.selected / 2**20,
        "requests_per_s": workers * machine.score_rate / (run.images / shards),
    }


def check(folder: Path) -> dict[str, float]:
    """Two workers of this machine as the model says from one, and as they are."""
    import tempfile

    from torch.multiprocessing.spawn import spawn

    from sslscale.data.pack import pack
    from sslscale.nn.classifier import build_backbone, num_parameters
    from sslscale.settings.data import PackConfig
    from sslscale.settings.model import ModelConfig
    from tests.benchmarks.scaling import worker

    rates = {}
    with tempfile.TemporaryDirectory() as work:
        pack(PackConfig(source=str(folder)), Path(work) / "shards", threads=2)
        for world in (1, 2):
            spawn(worker, (world, work, "wrn_10_1", 128, 60), nprocs=world)
            rates[world] = json.loads((Path(work) / f"rates-{world}.json").read_text())["training"]
    weights = num_parameters(build_backbone(ModelConfig(name="wrn_10_1"))[0])
    machine = Machine(train_rate=rates[1], score_rate=1, bandwidth=1e9, latency=2e-3, price=0)
    run = Run(images=1, kept=1, epochs=1, weights=weights, batch=128)
    said = 2 * 128 / step_seconds(machine, run, 2)
    return {"one": rates[1], "two": rates[2], "two_by_the_model": said, "error": said / rates[2] - 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="130e6,300e6")
    parser.add_argument("--gpus", default="8,64,512")
    parser.add_argument("--train-rate", type=float, default=1400, help="images/s a GPU: ResNet-50 at 224, bf16 (1400)")
    parser.add_argument("--score-rate", type=float, default=5500, help="images/s a GPU, forward alone (5500)")
    parser.add_argument("--weights", type=float, default=25.6e6, help="of the network (25.6e6)")
    parser.add_argument("--epochs", type=float, default=10, help="passes over the kept images (10)")
    parser.add_argument("--kept", type=float, default=0.6, help="share of the images that the student sees (0.6)")
    parser.add_argument("--batch", type=int, default=256, help="images a GPU and step (256)")
    parser.add_argument("--bandwidth", type=float, default=25e9, help="bytes/s between nodes (25e9)")
    parser.add_argument("--latency", type=float, default=3e-4, help="s a step and doubling (3e-4)")
    parser.add_argument("--price", type=float, default=2.5, help="of a GPU's hour (2.5)")
    parser.add_argument("--node-memory", type=float, default=1e12, help="bytes (1e12)")
    parser.add_argument("--node-gpus", type=int, default=8)
    parser.add_argument("--check", type=Path, metavar="CIFAR_FOLDER")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.check is not None:
        found = check(options.check)
        print(
            f"1 worker {found['one']:.0f} images/s; 2 workers {found['two']:.0f}, by the model "
            f"{found['two_by_the_model']:.0f} ({found['error']:+.0%})"
        )
        if options.json:
            print(json.dumps(found))
        return
    machine = Machine(options.train_rate, options.score_rate, options.bandwidth, options.latency, options.price)
    rows, node = {}, Node(options.node_memory, options.node_gpus)
    print(
        "images  GPUs   train h   score h      cost  efficiency  shards  images/shard  driver MiB  student MiB"
        "  requests/s  breaks first"
    )
    for images in map(float, options.images.split(",")):
        for gpus in map(int, options.gpus.split(",")):
            run = Run(images, options.kept, options.epochs, options.weights, options.batch)
            r = rows[f"{images:.0f}/{gpus}"] = simulate(machine, run, gpus)
            used = limits(machine, run, gpus, Costs(), node)
            first, (_, size) = max(used.items(), key=lambda item: item[1][0])
            print(
                f"{images / 1e6:5.0f}M {gpus:5d} {r['train_h']:9.1f} {r['score_h']:9.2f} {r['cost']:9,.0f} "
                f"{r['train_efficiency']:6.2f}/{r['score_efficiency']:.2f} {r['shards']:7,d} "
                f"{r['images_a_shard']:13,.0f} {r['driver_mib']:11.1f} {r['student_mib']:12,.0f} "
                f"{r['requests_per_s']:11.1f}  {first}, at {size}"
            )
            r |= {f"used: {name}": share for name, (share, _) in used.items()}
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
