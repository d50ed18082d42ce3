"""What every semi-supervised method learns from few labels with one small network and one budget, and how fast.

    python tests/benchmarks/semi_methods.py --data DIR [--methods fixmatch,uda] [--labels 4000] [--seeds 0,1,2] [--json]

Each method trains by configs/semi_supervised/METHOD_cifar10_cpu.yaml (one worker, torch alone) on --labels labels of
DIR/train, the other images unlabelled, and is judged on DIR/test. `supervised` knows the labels alone; `noisy_student`
learns from its soft labels in one round, under the noise of configs/noisy_student/cifar10_cpu.yaml. Without --data (and
data/cifar10) scikit-learn's digits take their place, 40 labels, with fixmatch_digits.yaml's network and augmentation.
The JSON line maps method -> {"test_accuracy": [...], "images_per_s": median over seeds}.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from sslscale.config.build import build
from sslscale.config.document import read
from sslscale.data.images import Images
from sslscale.data.pack import pack
from sslscale.data.samples import Samples, open_samples, open_unlabeled
from sslscale.data.stream import Stream
from sslscale.errors import UserError
from sslscale.evaluate.outputs import network_outputs
from sslscale.methods.method import build_method
from sslscale.methods.noisy_student import NoisyStudent
from sslscale.settings.data import PackConfig
from sslscale.settings.train import TrainConfig
from sslscale.storage.scratch import Local
from sslscale.train.engine import Engine
from sslscale.train.fit import fit
from tests.configurations import Rows

CONFIGS = Path(__file__).parents[2] / "configs/semi_supervised"
METHODS = sorted(path.name.removesuffix("_cifar10_cpu.yaml") for path in CONFIGS.glob("*_cifar10_cpu.yaml"))
TRAINING = ("labeled", "unlabeled")
# of the digits, few of which are labelled: other settings than on CIFAR-10
DIGITS: dict[str, dict[str, Any]] = {
    "mean_teacher": {"unlabeled_weight": 30.0, "ramp": 40 / 150},
    "pi_model": {"unlabeled_weight": 30.0, "ramp": 80 / 300},
    "temporal_ensembling": {"unlabeled_weight": 30.0},
    "mixmatch": {"unlabeled_ratio": 2},
    "vat": {"unlabeled_ratio": 2, "unlabeled_weight": 1.0, "ramp": 0.0, "entropy_weight": 0.1},
    "remixmatch": {"unlabeled_ratio": 1},
}
CPU = torch.device("cpu")
CACHE_BYTES = 8 << 30


def settings(method: str, digits: bool) -> TrainConfig:
    """A method's training; of the supervised one and of Noisy Student as beside FixMatch."""
    source = method if method in METHODS else "fixmatch"
    document = read(CONFIGS / f"{source}_cifar10_cpu.yaml")
    section = "supervised" if method == "supervised" else "train"
    own: TrainConfig = build(TrainConfig, document, document.data[section], section)
    if digits:
        document = read(CONFIGS / "fixmatch_digits.yaml")
        small: TrainConfig = build(TrainConfig, document, document.data["train"], "train")
        views = small.views if "strong" in own.views else {}
        recipe: Any = own.method
        short = dataclasses.replace(recipe, ema=0.95)  # of 400 steps an average over a hundred lags behind
        if method in METHODS:
            short = dataclasses.replace(short, **{"unlabeled_ratio": 3, **DIGITS.get(method, {})})
        own = dataclasses.replace(small, method=short, views=views)
    if method == "noisy_student":
        noise = own.views.get("strong")
        if not digits:
            document = read(CONFIGS.parent / "noisy_student/cifar10_cpu.yaml")
            graph: TrainConfig = build(TrainConfig, document, document.data["student"], "student")
            noise = graph.augment
        assert noise is not None
        # 2 times as many soft labels: the images of a step are as many as FixMatch's
        student = NoisyStudent(unlabeled_ratio=3 if digits else 2, ema=0.95 if digits else 0.99)
        own = dataclasses.replace(own, method=student, augment=noise, views={})
    return own


class Bench:
    """Packed images of one seed's labels, and the trainings on them."""

    def __init__(self, shards: Path, cache: Path, threads: int):
        self.shards, self.cache, self.threads = shards, cache, threads
        self.local = Local(cache)

    def samples(self, name: str) -> Samples:
        if name == "labeled":
            return open_samples(self.shards / "labeled", local=self.local)
        return open_unlabeled(self.shards, TRAINING, local=self.local)

    def train(self, own: TrainConfig, soft: torch.Tensor | None = None) -> tuple[torch.nn.Module, float, dict]:
        """The network that is kept, images a second without the first tenth of the steps, and the last log."""
        streams = {}
        for spec in own.method.streams:
            samples = self.samples(spec.name)
            if spec.name == "pseudo":
                assert soft is not None
                samples = dataclasses.replace(samples, table=soft.numpy())
            streams[spec.name] = Stream.of(
                spec, samples, own, cache=self.cache, cache_bytes=CACHE_BYTES, threads=self.threads
            )
        torch.manual_seed(own.seed)
        method = build_method(own.method, own.model, 10)
        method.prepare({name: len(stream) for name, stream in streams.items()}, own)
        steps = own.steps(len(streams["labeled"]))
        own = dataclasses.replace(own, log_every=max(steps // 10, 1))
        engine = Engine(method, own, steps, CPU)
        kept = Rows()
        fit(engine, streams, recorder=kept, threads=self.threads)
        images = sum(own.batch_sizes.values())
        rate = images * (kept.steps[-1] - kept.steps[0]) / max(kept.times[-1] - kept.times[0], 1e-9)
        return method.result.eval(), rate, {name: value for row in kept.rows for name, value in row.items()}

    def outputs(self, network: torch.nn.Module, own: TrainConfig, samples: Samples) -> torch.Tensor:
        images = Images(
            samples.shards,
            own.image.size,
            cache=self.cache,
            cache_bytes=CACHE_BYTES,
            threads=self.threads,
            evaluation_crop=own.image.crop,
        )
        return network_outputs(network, own.image, images, *samples.places(), batch_size=500, device=CPU).float()

    def accuracy(self, network: torch.nn.Module, own: TrainConfig) -> float:
        samples = open_samples(self.shards / "test", local=self.local)
        truth = torch.from_numpy(samples.labels).long()
        return (self.outputs(network, own, samples).argmax(1) == truth).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(("supervised", "noisy_student", *METHODS)))
    parser.add_argument("--labels", type=int, default=4000)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--steps", type=int, help="of each training; as configured if left out")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="as configured if left out: fp32")
    parser.add_argument("--data", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--work", type=Path, help="folder that keeps the packed images for the next time")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    chosen, seeds = options.methods.split(","), [int(seed) for seed in options.seeds.split(",")]
    unknown = sorted({*chosen} - {"supervised", "noisy_student", *METHODS})
    if unknown:
        parser.error(f"no method {', '.join(unknown)}; there are supervised, noisy_student, {', '.join(METHODS)}")
    digits = options.data == parser.get_default("data") and not options.data.exists()
    labels = min(options.labels, 40) if digits else options.labels
    if labels % 10:
        parser.error("--labels must be a multiple of 10, the number of classes")
    if digits:
        instead = f"scikit-learn's 1,797 digits instead, {labels} of them labelled"
        print(f"{options.data} is not there (--data DIR): {instead}", file=sys.stderr)
    changes: dict[str, Any] = {} if options.steps is None else {"num_steps": options.steps, "epochs": None}
    if options.precision is not None:
        changes["precision"] = options.precision
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        work = options.work or Path(name)
        found: dict[str, dict[str, list[float]]] = {m: {"test_accuracy": [], "images_per_s": []} for m in chosen}
        for seed in seeds:
            shards = work / f"{'digits' if digits else 'images'}-{labels}-{seed}"
            held = 0.25 if digits else str(options.data / "test")
            source = PackConfig(
                source="digits" if digits else str(options.data / "train"),
                test=held,
                labels_per_class=labels // 10,
                keep_hidden_labels=True,
                shard_size=10_000,
                seed=seed,
            )
            try:
                if not (shards / "test" / "index.json").exists():
                    pack(source, shards)
            except UserError as error:
                sys.exit(
                    f"{error}\ngive --data DIR, with the images of each class in a folder of DIR/train and DIR/test"
                )
            bench = Bench(shards, work / "cache", options.threads)
            teacher = None
            for method in sorted(chosen, key=lambda m: (m != "supervised", chosen.index(m))):
                own, soft = dataclasses.replace(settings(method, digits), **changes, seed=seed), None
                if method == "noisy_student":
                    if teacher is None:
                        first = dataclasses.replace(settings("supervised", digits), **changes, seed=seed)
                        teacher = bench.train(first)[0]
                    soft = bench.outputs(teacher, own, bench.samples("pseudo")).softmax(1)
                network, rate, last = bench.train(own, soft)
                if method == "supervised":
                    teacher = network
                accuracy = bench.accuracy(network, own)
                found[method]["test_accuracy"].append(accuracy)
                found[method]["images_per_s"].append(rate)
                more = {k: round(last[k], 3) for k in ("kept", "pseudo_label_accuracy") if k in last}
                print(f"{method:20} seed {seed}  {accuracy:.4f}  {rate:.0f} images/s  {more or ''}", flush=True)
    for method, rows in found.items():
        values = rows["test_accuracy"]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{method:20} test accuracy {statistics.mean(values):.4f} +- {spread:.4f}")
    if options.json:
        line = {m: {**rows, "images_per_s": statistics.median(rows["images_per_s"])} for m, rows in found.items()}
        print(json.dumps(line))


if __name__ == "__main__":
    main()
