"""FixMatch's training loop, data included, against a loop of the kind that PyTorch users of FixMatch run.

    python tests/benchmarks/fixmatch_step.py DIR [--model wrn_10_1] [--batch-size 64] [--ratio 7] [--steps 12] [--json]

DIR has an image folder of class folders. `usual` is kekmodel/FixMatch-pytorch's loop in torchvision's terms: one
DataLoader for the labelled and one for the unlabelled images, PIL transforms in worker processes (flip, padded crop,
RandAugment(2, 10), cutout of half the side), interleaved batches through one network, SGD, an average of the weights.
USB's loop has the same parts. Both loops have the same network, batch, ratio and number of threads or workers; they
take turns, `--rounds` times, and the fastest counts.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from sslscale.data.pack import pack
from sslscale.data.samples import open_images, open_samples
from sslscale.data.stream import Stream
from sslscale.methods.fixmatch import FixMatch
from sslscale.methods.method import build_method
from sslscale.nn.classifier import build_classifier
from sslscale.settings.augment import AugmentConfig, RandAugmentConfig
from sslscale.settings.data import PackConfig
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.train import OptimConfig, TrainConfig
from sslscale.storage.scratch import Local
from sslscale.train.engine import Engine
from sslscale.train.fit import fit
from tests.configurations import Rows

MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)


def config(options: argparse.Namespace) -> TrainConfig:
    plain = AugmentConfig(crop="pad", flip=True)
    strong = AugmentConfig(
        crop="pad",
        flip=True,
        randaugment=RandAugmentConfig(num_ops=2, magnitude=10, translate=0.125, cutout=0.125),
        cutout=0.5,
    )
    return TrainConfig(
        method=FixMatch(unlabeled_ratio=options.ratio),
        model=ModelConfig(name=options.model),
        image=ImageConfig(size=32, mean=MEAN, std=STD),
        augment=plain,
        views={"strong": strong},
        optim=OptimConfig(lr=0.03),
        batch_size=options.batch_size,
        num_steps=options.steps,
        log_every=1,
    )


def ours(settings: TrainConfig, shards: Path, cache: Path, threads: int) -> float:
    """Steps a second, without the first."""
    samples = {
        "labeled": open_samples(shards / "labeled", local=Local(cache)),
        "unlabeled": open_images(shards, ("labeled", "unlabeled"), local=Local(cache)),
    }
    options: dict[str, Any] = {"cache": cache, "cache_bytes": 8 << 30, "threads": threads}
    streams = {spec.name: Stream.of(spec, samples[spec.name], settings, **options) for spec in settings.method.streams}
    for stream in streams.values():
        stream.make_ready()
    assert settings.num_steps is not None
    method = build_method(settings.method, settings.model, 10)
    method.prepare({name: len(stream) for name, stream in streams.items()}, settings)
    engine = Engine(method, settings, settings.num_steps, torch.device("cpu"))
    kept = Rows()
    fit(engine, streams, recorder=kept, threads=threads)
    return (len(kept.times) - 1) / (kept.times[-1] - kept.times[0])


class Cutout:
    """A grey square of half the side at a random place."""

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        x, y, half = random.uniform(0, width), random.uniform(0, height), min(width, height) // 4
        image = image.copy()
        ImageDraw.Draw(image).rectangle((x - half, y - half, x + half, y + half), (127, 127, 127))
        return image


class Usual(Dataset):
    """Images of a folder, decoded each time; weak and strong, or weak alone."""

    def __init__(self, folder: Path, chosen: list[int] | None, *, strong: bool):
        self.data = ImageFolder(str(folder))
        self.chosen = list(range(len(self.data))) if chosen is None else chosen
        first = [
            transforms.RandomHorizontalFlip(),
            transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
        ]
        last = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        self.weak = transforms.Compose([*first, *last])
        more = [transforms.RandAugment(2, 10), Cutout()]
        self.strong = transforms.Compose([*first, *more, *last]) if strong else None

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, number: int) -> Any:
        image, label = self.data[self.chosen[number]]
        weak = self.weak(image)
        return (weak, label) if self.strong is None else (weak, self.strong(image))


def forever(loader: DataLoader) -> Iterator[Any]:
    while True:
        yield from loader


def interleave(x: torch.Tensor, groups: int) -> torch.Tensor:
    return x.reshape(-1, groups, *x.shape[1:]).transpose(0, 1).reshape(-1, *x.shape[1:])


def restored(x: torch.Tensor, groups: int) -> torch.Tensor:
    return x.reshape(groups, -1, *x.shape[1:]).transpose(0, 1).reshape(-1, *x.shape[1:])


def usual(settings: TrainConfig, folder: Path, workers: int) -> float:
    """Steps a second, without the first."""
    method = settings.method
    assert isinstance(method, FixMatch) and settings.num_steps is not None
    size, ratio = settings.batch_size, method.unlabeled_ratio
    whole = ImageFolder(str(folder))
    first = [i for label in range(10) for i in [n for n, y in enumerate(whole.targets) if y == label][:400]]
    labeled = DataLoader(Usual(folder, first, strong=False), size, shuffle=True, num_workers=workers, drop_last=True)
    unlabeled = DataLoader(
        Usual(folder, None, strong=True), size * ratio, shuffle=True, num_workers=workers, drop_last=True
    )
    network = build_classifier(settings.model, 10).train()
    average = copy.deepcopy(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9, nesterov=True, weight_decay=5e-4)
    started = 0.0
    for step, ((x, y), (weak, strong)) in enumerate(zip(forever(labeled), forever(unlabeled), strict=False)):
        groups = 2 * ratio + 1
        logits = restored(network(interleave(torch.cat([x, weak, strong]), groups)), groups)
        known, guessed = logits[:size], logits[size:]
        w, s = guessed.chunk(2)
        confidence, target = w.detach().softmax(1).max(1)
        kept = (confidence >= method.threshold).float()
        loss = F.cross_entropy(known, y) + (F.cross_entropy(s, target, reduction="none") * kept).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for mine, theirs in zip(average.parameters(), network.parameters(), strict=True):
                mine.mul_(0.999).add_(theirs, alpha=0.001)
        if step == 0:
            started = time.perf_counter()
        if step == settings.num_steps - 1:
            return (settings.num_steps - 1) / (time.perf_counter() - started)
    raise AssertionError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="wrn_10_1")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--ratio", type=int, default=7)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = config(options)
    rates: dict[str, list[float]] = {"ours": [], "usual": []}
    with tempfile.TemporaryDirectory() as name:
        shards, cache = Path(name) / "shards", Path(name) / "cache"
        pack(PackConfig(source=str(options.folder), labels_per_class=400, shard_size=10_000), shards)
        for _ in range(options.rounds):
            rates["ours"].append(ours(settings, shards, cache, options.threads))
            rates["usual"].append(usual(settings, options.folder, options.threads))
    best = {name: max(values) for name, values in rates.items()}
    for name, rate in best.items():
        print(f"{name:6} {rate:.3f} steps/s, {rate * options.batch_size * (1 + 2 * options.ratio):.0f} views/s")
    print(f"ours is {best['ours'] / best['usual']:.2f} times as fast")
    if options.json:
        print(json.dumps({**best, "ratio": best["ours"] / best["usual"]}))


if __name__ == "__main__":
    main()
