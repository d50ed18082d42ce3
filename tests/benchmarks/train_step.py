"""SimCLR's training loop as a whole against the bare model, and against lightly's example loop.

    pip install -c infra/constraints.txt -e '.[bench]'
    python tests/benchmarks/train_step.py CIFAR_FOLDER [--model wrn_10_1] [--batch-size 128] [--steps 60] [--json]

`bare` trains on one batch that is there already: forward, backward, update, nothing else. `ours` is `fit` with data,
augmentation, logging and checkpoints. `lightly` is the loop of lightly's SimCLR example (its data set, transform,
projection head and loss) with as many worker processes as we have threads, on the same network and optimiser. The three
take turns, `--rounds` times, and the fastest counts: other work on the machine only slows.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from sslscale.data.batch import Batch
from sslscale.data.pack import pack
from sslscale.data.samples import open_samples
from sslscale.data.stream import Stream
from sslscale.methods.method import StepInfo, build_method
from sslscale.methods.simclr import SimCLR
from sslscale.nn.classifier import build_backbone
from sslscale.settings.augment import AugmentConfig, JitterConfig
from sslscale.settings.data import PackConfig
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.train import OptimConfig, TrainConfig
from sslscale.storage.scratch import Local
from sslscale.train.engine import Engine
from sslscale.train.fit import fit
from tests.configurations import Rows

JITTER = JitterConfig(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
VIEW = AugmentConfig(crop="resized", flip=True, jitter=JITTER, grayscale=0.2, count=2)


def config(model: str, batch_size: int, steps: int) -> TrainConfig:
    return TrainConfig(
        method=SimCLR(temperature=0.5),
        model=ModelConfig(name=model),
        image=ImageConfig(size=32),
        augment=VIEW,
        optim=OptimConfig(lr=0.06),
        batch_size=batch_size,
        num_steps=steps,
        log_every=10,
        save_every=max(steps - 5, 1),
    )


def bare(settings: TrainConfig) -> float:
    engine = Engine(build_method(settings.method, settings.model, 10), settings, 1000, torch.device("cpu"))
    size = settings.batch_size
    views = [torch.randn(size, 3, 32, 32).to(memory_format=torch.channels_last) for _ in range(2)]
    batch = {"images": Batch(tuple(views), torch.arange(size))}
    engine.method.train()
    assert settings.num_steps is not None
    engine.train_step(batch, StepInfo(0, 0.0, 0.0))
    started = time.perf_counter()
    for step in range(settings.num_steps):
        engine.train_step(batch, StepInfo(step, 0.0, 0.0))
    return size * settings.num_steps / (time.perf_counter() - started)


def ours(settings: TrainConfig, shards: Path, cache: Path, threads: int) -> float:
    stream = Stream(
        "images",
        open_samples(shards, labels=False, local=Local(cache)),
        batch_size=settings.batch_size,
        seed=0,
        image=settings.image,
        views=[settings.augment],
        cache=cache,
        cache_bytes=8 << 30,
        threads=threads,
    )
    stream.make_ready()
    assert settings.num_steps is not None
    engine = Engine(
        build_method(settings.method, settings.model, 10), settings, settings.num_steps, torch.device("cpu")
    )
    with tempfile.TemporaryDirectory() as folder:
        kept = Rows(Path(folder))
        fit(engine, {"images": stream}, recorder=kept, threads=threads)
        ended = time.perf_counter()  # after the last checkpoint
    return settings.batch_size * (settings.num_steps - settings.log_every) / (ended - kept.times[0])


def lightly(settings: TrainConfig, folder: Path, threads: int) -> float:
    transforms: Any = importlib.import_module("lightly.transforms")
    heads: Any = importlib.import_module("lightly.models.modules")
    losses: Any = importlib.import_module("lightly.loss")
    transform = transforms.SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)
    data = importlib.import_module("lightly.data").LightlyDataset(str(folder), transform=transform)
    loader = DataLoader(data, settings.batch_size, shuffle=True, drop_last=True, num_workers=threads)
    backbone, width = build_backbone(settings.model)
    model = torch.nn.Sequential(backbone, heads.SimCLRProjectionHead(width, width, 128))
    criterion = losses.NTXentLoss(temperature=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)
    assert settings.num_steps is not None

    def batches() -> Iterator[Any]:
        while True:
            yield from loader

    started = 0.0
    for step, batch in zip(range(settings.num_steps + 1), batches(), strict=False):
        if step == 1:
            started = time.perf_counter()
        x0, x1 = batch[0]
        loss = criterion(model(x0), model(x1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return settings.batch_size * settings.num_steps / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("--model", default="wrn_10_1")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="ours,bare,lightly")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = config(options.model, options.batch_size, options.steps)
    with tempfile.TemporaryDirectory() as work:
        shards, cache = Path(work) / "shards", Path(work) / "cache"
        pack(PackConfig(source=str(options.cifar)), shards, threads=options.threads)
        contestants: dict[str, Callable[[], float]] = {
            "bare": lambda: bare(settings),
            "ours": lambda: ours(settings, shards / "labeled", cache, options.threads),
            "lightly": lambda: lightly(settings, options.cifar, options.threads),
        }
        chosen = {name: make for name, make in contestants.items() if name in options.only.split(",")}
        rates: dict[str, list[float]] = {name: [] for name in chosen}
        for _ in range(options.rounds):
            for name, make in chosen.items():
                rates[name].append(make())
    result = {name: max(values) for name, values in rates.items()}
    print(f"{options.model}, batches of {options.batch_size}, {options.threads} threads: images/s")
    for name, value in result.items():
        spread = " ".join(f"{v:,.0f}" for v in rates[name])
        print(f"  {name:10} {value:10,.0f}   of bare {value / result.get('bare', float('nan')):.3f}   ({spread})")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
