"""One worker against two: SimCLR's training with DistributedDataParallel, and the loader alone; one thread a worker.

    python tests/benchmarks/scaling.py CIFAR_FOLDER [--model wrn_10_1] [--batch-size 128] [--steps 60] [--json]

The batch is for each worker (weak scaling): twice the images a second is perfect. `apart` is what two processes reach
that know nothing of each other: where they share memory's bandwidth and the cores' clock, it is below twice, and no
program that trains with two can be above it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from sslscale.data.loader import Loader
from sslscale.data.pack import pack
from sslscale.data.samples import open_samples
from sslscale.data.stream import Stream
from sslscale.methods.method import StepInfo, build_method
from sslscale.methods.simclr import SimCLR
from sslscale.settings.augment import AugmentConfig, JitterConfig
from sslscale.settings.data import PackConfig
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.train import TrainConfig
from sslscale.storage.scratch import Local
from sslscale.train.engine import Engine


def apart(rank: int, work: str, model: str, batch_size: int, steps: int) -> None:
    """One of two processes without a group, each with a folder of its own."""
    own = Path(work) / f"apart-{rank}"
    own.mkdir()
    for name in ("shards", "cache"):
        (own / name).symlink_to(Path(work) / name)
    worker(0, 1, str(own), model, batch_size, steps)


def worker(rank: int, world: int, work: str, model: str, batch_size: int, steps: int) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{work}/store-{world}", rank=rank, world_size=world)
    config = TrainConfig(
        method=SimCLR(temperature=0.5),
        model=ModelConfig(name=model),
        image=ImageConfig(size=32),
        augment=AugmentConfig(crop="resized", flip=True, jitter=JitterConfig(), grayscale=0.2, count=2),
        batch_size=batch_size * world,
        num_steps=steps + 5,
    )
    stream = Stream(
        "images",
        open_samples(Path(work) / "shards" / "labeled", labels=False, local=Local(Path(work) / "cache")),
        batch_size=config.batch_size,
        seed=0,
        image=config.image,
        views=[config.augment],
        cache=Path(work) / "cache",
        cache_bytes=8 << 30,
        threads=1,
    )
    stream.make_ready()
    engine = Engine(build_method(config.method, config.model, 10), config, steps + 5, torch.device("cpu"))
    rates = {}
    for name, trains in (("loader", False), ("training", True)):
        count = steps if trains else 10 * steps
        started = 0.0
        for step, batch in enumerate(Loader({"images": stream}, count + 5, threads=1)):
            if step == 5:
                if world > 1:
                    dist.barrier()
                started = time.perf_counter()
            if trains:
                engine.train_step(batch, StepInfo(step, 0.0, 0.0))
        if world > 1:
            dist.barrier()
        rates[name] = count * config.batch_size / (time.perf_counter() - started)
    if rank == 0:
        (Path(work) / f"rates-{world}.json").write_text(json.dumps(rates))
    if world > 1:
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("--model", default="wrn_10_1")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = {}
    with tempfile.TemporaryDirectory() as work:
        pack(PackConfig(source=str(options.cifar)), Path(work) / "shards", threads=2)
        for world in (1, 2):
            spawn(worker, (world, work, options.model, options.batch_size, options.steps), nprocs=world)
            result[str(world)] = json.loads((Path(work) / f"rates-{world}.json").read_text())
        spawn(apart, (work, options.model, options.batch_size, options.steps), nprocs=2)
        rates = [json.loads((Path(work) / f"apart-{rank}" / "rates-1.json").read_text()) for rank in (0, 1)]
        result["apart"] = {name: sum(rate[name] for rate in rates) for name in rates[0]}
    for name in result["1"]:
        one, two = result["1"][name], result["2"][name]
        ceiling = result["apart"][name]
        print(
            f"{name:10} 1 worker {one:9,.0f} images/s   2 workers {two:9,.0f}   {two / one:.2f} times; apart "
            f"{ceiling:9,.0f}, of which 2 workers reach {two / ceiling:.0%}"
        )
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
