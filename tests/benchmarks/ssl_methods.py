"""What every self-supervised method learns on CIFAR-10 with one small network and one budget, and how fast.

    python tests/benchmarks/ssl_methods.py --data DIR [--methods simclr,byol] [--seeds 0,1,2] [--steps N] [--json]

Each method trains by configs/pretrain/METHOD_cifar10_cpu.yaml (one worker, torch alone); then kNN (k 200) and a linear
classifier (L-BFGS) judge its frozen features on the 10,000 test images, all 50,000 labels known. Beside them stand the
untrained networks (`random`, `random_vit`) and the same network trained on all labels (`supervised`). DIR has a folder
of class folders in train/ and one in test/; without it and without data/cifar10 scikit-learn's digits take its place.
The JSON line maps method -> {"knn": [...], "linear": [...], "images_per_s": median over seeds}.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from sslscale.config.build import build
from sslscale.config.document import read
from sslscale.data.images import Images
from sslscale.data.pack import pack
from sslscale.data.samples import Samples, open_images, open_samples
from sslscale.data.stream import Stream
from sslscale.errors import UserError
from sslscale.evaluate.knn import knn_classify
from sslscale.evaluate.linear import linear_probe
from sslscale.evaluate.outputs import network_outputs
from sslscale.evaluate.patches import PatchMean
from sslscale.methods.method import build_method
from sslscale.methods.supervised import Supervised
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.data import PackConfig
from sslscale.settings.features import ExtractConfig
from sslscale.settings.train import OptimConfig, TrainConfig
from sslscale.storage.scratch import Local
from sslscale.train.engine import Engine
from sslscale.train.fit import fit
from tests.configurations import Rows

CONFIGS = Path(__file__).parents[2] / "configs/pretrain"
METHODS = sorted(path.name.removesuffix("_cifar10_cpu.yaml") for path in CONFIGS.glob("*_cifar10_cpu.yaml"))
BASELINES = ("random", "random_vit", "supervised")
CPU = torch.device("cpu")


def settings(method: str) -> tuple[TrainConfig, ExtractConfig, int | None]:
    """Training and extraction of a method's configuration, and how many images of each class it learns from (None:
    all); of the baselines SimCLR's and DINO's network and images."""
    source = {"random": "simclr", "random_vit": "dino", "supervised": "simclr"}.get(method, method)
    document = read(CONFIGS / f"{source}_cifar10_cpu.yaml")
    own: TrainConfig = build(TrainConfig, document, document.data["pretrain"], "pretrain")
    extract: ExtractConfig = build(ExtractConfig, document, document.data.get("extract", {}), "extract")
    if method == "supervised":
        plain = AugmentConfig(crop="resized", scale=(0.3, 1.0), flip=True)
        own = dataclasses.replace(own, method=Supervised(), augment=plain, optim=OptimConfig(lr=0.1))
    return own, extract, document.data["data"].get("labels_per_class")


def train(
    own: TrainConfig, per_class: int | None, shards: Path, cache: Path, threads: int
) -> tuple[torch.nn.Module, float]:
    """The network that is kept, and images a second without the first tenth of the steps."""
    (spec,) = own.method.streams
    name = spec.name
    local = Local(cache)
    samples = open_images(shards, ("labeled",), labels=name == "mixed", local=local)
    if name == "labeled":
        samples = open_samples(shards / "labeled", local=local)
    if per_class is not None:
        chosen = open_images(shards, ("labeled",), labels=True, local=local).share(
            per_class * len(samples.index.classes) / len(samples), own.seed
        )
        samples = dataclasses.replace(chosen, labels=np.full(len(chosen), -1, np.int8))
    stream = Stream.of(spec, samples, own, cache=cache, cache_bytes=8 << 30, threads=threads)
    torch.manual_seed(own.seed)
    method = build_method(own.method, own.model, 10)
    method.prepare({name: len(stream)}, own)
    steps = own.steps(len(stream))
    own = dataclasses.replace(own, log_every=max(steps // 10, 1))
    engine = Engine(method, own, steps, CPU)
    kept = Rows()
    fit(engine, {name: stream}, recorder=kept, threads=threads)
    rate = own.batch_size * (kept.steps[-1] - kept.steps[0]) / max(kept.times[-1] - kept.times[0], 1e-9)
    return method.result, rate


class Judge:
    """kNN and linear accuracy of a network on the test images."""

    def __init__(self, shards: Path, cache: Path, threads: int):
        self.cache, self.threads = cache, threads
        self.sets: list[Samples] = [open_samples(shards / split, local=Local(cache)) for split in ("labeled", "test")]

    def __call__(self, network: torch.nn.Module, own: TrainConfig, extract: ExtractConfig) -> tuple[float, float]:
        backbone = getattr(network, "backbone", network)  # of a classifier
        if extract.patches:
            backbone = PatchMean(backbone, extract.patches, extract.patch_area, extract.patch_size or own.image.size)
        found = []
        for samples in self.sets:
            images = Images(
                samples.shards,
                own.image.size,
                cache=self.cache,
                cache_bytes=8 << 30,
                threads=self.threads,
                evaluation_crop=own.image.crop,
            )
            features = network_outputs(backbone, own.image, images, *samples.places(), batch_size=500, device=CPU)
            found.append((features, torch.from_numpy(samples.labels).long()))
        (bank, labels), (queries, truth) = found
        classes = int(labels.max()) + 1
        knn = knn_classify(bank, labels, queries, classes, k=200, temperature=0.1)
        linear, _ = linear_probe(bank, labels, queries, classes, seed=0)
        return tuple((probs.argmax(1) == truth).float().mean().item() for probs in (knn, linear))  # pyright: ignore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join((*BASELINES, *METHODS)))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--steps", type=int, help="of each training; as configured if left out")
    parser.add_argument("--data", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--work", type=Path, help="folder that keeps the packed images for the next time")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    chosen, seeds = options.methods.split(","), [int(seed) for seed in options.seeds.split(",")]
    unknown = sorted({*chosen} - {*METHODS, *BASELINES})
    if unknown:
        parser.error(f"no method {', '.join(unknown)}; there are {', '.join((*BASELINES, *METHODS))}")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        work = options.work or Path(name)
        shards, cache = work / "shards", work / "cache"
        source = PackConfig(source=str(options.data / "train"), test=str(options.data / "test"), shard_size=10_000)
        if options.data == parser.get_default("data") and not options.data.exists():
            print(f"{options.data} is not there (--data DIR): scikit-learn's 1,797 digits instead", file=sys.stderr)
            source = PackConfig(source="digits", test=0.25)
        try:
            if not (shards / "test" / "index.json").exists():
                pack(source, shards)
        except UserError as error:
            sys.exit(
                f"{error}\ngive --data DIR, with the images of each class in a folder of DIR/train and of DIR/test"
            )
        judge = Judge(shards, cache, options.threads)
        found: dict[str, dict[str, list[float]]] = {}
        for method in chosen:
            rows: dict[str, list[float]] = {"knn": [], "linear": [], "images_per_s": []}
            for seed in seeds:
                own, extract, per_class = settings(method)
                own = dataclasses.replace(own, seed=seed)
                if options.steps is not None:
                    own = dataclasses.replace(own, num_steps=options.steps, epochs=None)
                if method.startswith("random"):
                    torch.manual_seed(seed)
                    network, rate = build_method(own.method, own.model, 10).result, float("nan")
                else:
                    network, rate = train(own, per_class, shards, cache, options.threads)
                knn, linear = judge(network, own, extract)
                for column, value in (("knn", knn), ("linear", linear), ("images_per_s", rate)):
                    rows[column].append(value)
            found[method] = rows
            print(f"{method:14} " + "  ".join(f"{n} {_spread(v)}" for n, v in rows.items()), flush=True)
    if options.json:
        rates = {m: statistics.median(rows["images_per_s"]) for m, rows in found.items()}
        line = {m: {**rows, "images_per_s": None if rates[m] != rates[m] else rates[m]} for m, rows in found.items()}
        print(json.dumps(line))


def _spread(values: list[float]) -> str:
    if any(math.isnan(value) for value in values):
        return "-"
    shown = ".0f" if max(values) > 1 else ".4f"
    return f"{statistics.mean(values):{shown}} +- {statistics.stdev(values) if len(values) > 1 else 0:{shown}}"


if __name__ == "__main__":
    main()
