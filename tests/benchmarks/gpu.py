"""A first day on a GPU, in one command of under 8 minutes, with torch, torchvision and numpy alone.

    PYTHONPATH=. python tests/benchmarks/gpu.py [--parts losses,waits,decoding,speed] [--cases simclr,dino] [--json]

`losses`: each method's loss and gradient on the GPU against those on the CPU, from the same weights and batch, in
float32. `waits`: the methods whose step makes the host wait for the GPU, by torch's own sync debug mode. `decoding`:
JPEGs decoded a second by the CPU's threads and by the GPU. `speed`:
SimCLR with ResNet-50 at 224 pixels, DINO and MAE with ViT-S/16, FixMatch with WRN-28-2 at 32 pixels, in bf16, with and
without `compile`: images/s of the step alone (a batch that is there), with data, the share of the time that the host
waits for data, the arithmetic as a share of the device's bf16 peak (measured here by a large product of matrices), peak
memory; and for SimCLR the usual loop beside it, as lightly's example has it: PIL transforms in worker processes. Images
are synthetic JPEGs in shards: 32 x 32, and 320 x 240. Without a GPU it runs on the CPU, which shows that it runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import os
import tarfile
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2 as transforms
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.io import ImageReadMode, decode_jpeg

from sslscale.data.batch import Batch
from sslscale.data.decode import decode, dimensions
from sslscale.data.index import ShardInfo, write_index
from sslscale.data.loader import Loader
from sslscale.data.samples import open_images, open_samples
from sslscale.data.stream import Stream
from sslscale.data.threads import pool
from sslscale.data.write import Sample
from sslscale.losses import in_float32
from sslscale.methods.dino import DINO
from sslscale.methods.fixmatch import FixMatch
from sslscale.methods.mae import MAE
from sslscale.methods.method import StepInfo, build_method
from sslscale.methods.simclr import SimCLR
from sslscale.methods.simclr.method import nt_xent
from sslscale.nn.classifier import build_backbone
from sslscale.settings.augment import AugmentConfig, BlurConfig, JitterConfig, RandAugmentConfig
from sslscale.settings.model import ImageConfig, ModelConfig
from sslscale.settings.train import OptimConfig, TrainConfig
from sslscale.train.engine import Engine, set_up
from tests.configurations import CONFIGS, batch_of

VIEW = AugmentConfig(
    crop="resized", scale=(0.2, 1.0), flip=True, jitter=JitterConfig(), grayscale=0.2, blur=BlurConfig(), size=224
)
ADAMW = OptimConfig(name="adamw", lr=1e-3)
VIT = ModelConfig(name="vit_small_16")
LARGE = ImageConfig(size=224, short_side=256)
CASES = {  # a configuration, and the images of its first stream in a batch
    "simclr": TrainConfig(
        method=SimCLR(),
        model=ModelConfig(name="resnet_50"),
        image=LARGE,
        augment=VIEW,
        optim=OptimConfig(name="lars", lr=0.3),
        batch_size=128,
        num_steps=100,
        precision="bf16",
    ),
    "dino": TrainConfig(
        method=DINO(),
        model=VIT,
        image=LARGE,
        augment=VIEW,
        views={"local": dataclasses.replace(VIEW, scale=(0.05, 0.2), size=96, count=6)},
        optim=ADAMW,
        batch_size=64,
        num_steps=100,
        precision="bf16",
    ),
    "mae": TrainConfig(
        method=MAE(),
        model=VIT,
        image=LARGE,
        augment=AugmentConfig(crop="resized", scale=(0.2, 1.0), flip=True),
        optim=ADAMW,
        batch_size=256,
        num_steps=100,
        precision="bf16",
    ),
    "fixmatch": TrainConfig(
        method=FixMatch(),
        model=ModelConfig(name="wrn_28_2"),
        image=ImageConfig(size=32),
        augment=AugmentConfig(crop="pad", flip=True),
        views={"strong": AugmentConfig(crop="pad", flip=True, randaugment=RandAugmentConfig(), cutout=0.5)},
        optim=OptimConfig(lr=0.03),
        batch_size=64,
        num_steps=100,
        precision="bf16",
    ),
}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --- losses ---------------------------------------------------------------------------------------------------


def stepped(name: str, device: torch.device) -> tuple[dict[str, float], float]:
    """The parts of the loss of one batch, and the norm of its gradient."""
    config = dataclasses.replace(CONFIGS[name], sync_batch_norm=False)
    sizes = config.batch_sizes
    torch.manual_seed(0)
    method = build_method(config.method, config.model, 10)
    method.prepare({stream: 200 for stream in sizes}, config)
    engine = Engine(method, config, 40, device)
    method.train()
    batch = {stream: batch_of(config, stream, size, 0, device) for stream, size in sizes.items()}
    parts, gradients = engine.gradients(batch, StepInfo(20, 0.5, 10.0))
    norm = nn.utils.get_total_norm(list(gradients.values()))
    return {part: float(value) for part, value in parts.items()}, float(norm)


def losses(device: torch.device) -> dict[str, dict[str, float]]:
    """Relative differences between the GPU and the CPU. TF32 is off: it is no part of the question."""
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    found = {}
    for name in CONFIGS:
        (mine, norm), (theirs, other) = stepped(name, device), stepped(name, torch.device("cpu"))
        loss = abs(mine["loss"] - theirs["loss"]) / max(abs(theirs["loss"]), 1e-12)
        found[name] = {"loss": theirs["loss"], "difference": loss, "gradient": abs(norm - other) / max(other, 1e-12)}
        print(
            f"  {name:24} loss {theirs['loss']:9.4f}   off by {loss:8.1e}   gradient by {found[name]['gradient']:8.1e}"
        )
    torch.backends.cudnn.allow_tf32 = True
    return found


def waits(device: torch.device) -> dict[str, list[str]]:
    """What each method's third step waits for, as torch says it; nothing on a CPU."""
    found = {}
    for name in CONFIGS if device.type == "cuda" else ():
        config = dataclasses.replace(CONFIGS[name], sync_batch_norm=False)
        sizes = config.batch_sizes
        method = build_method(config.method, config.model, 10)
        method.prepare({stream: 200 for stream in sizes}, config)
        engine = Engine(method, config, 40, device)
        method.train()
        told: list[str] = []
        for step in range(3):
            batch = {stream: batch_of(config, stream, size, step, device) for stream, size in sizes.items()}
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn" if step == 2 else "default")
                engine.train_step(batch, StepInfo(step + 20, 0.5, 10.0))
                torch.cuda.set_sync_debug_mode("default")
            told = sorted({f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)})
        found[name] = told
        print(f"  {name:24} {', '.join(told) or 'waits nowhere'}")
    return found


def decoding(device: torch.device, threads: int, count: int = 512) -> dict[str, float]:
    """JPEGs of 500 x 375 decoded a second: by `threads` threads of the CPU, as the loader does, and on the device."""
    files = [bytes(sample.image) for sample in synthetic(count, 375, 500)]
    workers = pool("decode", threads)
    list(workers.map(decode, files))
    started = time.perf_counter()
    list(workers.map(decode, files))
    found = {"cpu_images_per_s": count / (time.perf_counter() - started)}
    if device.type == "cuda":
        encoded = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
        for _ in range(2):  # the first starts the decoder
            wait(device)
            started = time.perf_counter()
            for at in range(0, count, 128):
                decode_jpeg(encoded[at : at + 128], mode=ImageReadMode.RGB, device=device)
            wait(device)
            found["device_images_per_s"] = count / (time.perf_counter() - started)
    print("  " + "   ".join(f"{name} {rate:,.0f}" for name, rate in found.items()))
    return found


# --- speed ----------------------------------------------------------------------------------------------------


def synthetic(count: int, height: int, width: int) -> Iterator[Sample]:
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        buffer = io.BytesIO()
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        yield Sample(f"s{number:08d}", buffer.getvalue(), "jpg", number % 10)


def write_tar(folder: Path, samples: Iterator[Sample]) -> None:
    """One labelled shard, by the standard library: such a machine has no webdataset."""
    folder.mkdir(parents=True)
    labels, shapes, buffer = [], set(), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for sample in samples:
            for name, data in ((f"{sample.key}.jpg", sample.image), (f"{sample.key}.cls", b"%d" % sample.label)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
            labels.append(sample.label)
            shapes.add(dimensions(bytes(sample.image)))
    data = buffer.getvalue()
    (folder / "x-000000.tar").write_bytes(data)
    shape = shapes.pop() if len(shapes) == 1 else None
    info = ShardInfo("x-000000.tar", len(labels), len(data), hashlib.sha256(data).hexdigest(), shape)
    write_index(folder, [info], [str(n) for n in range(10)], np.array(labels))


def peak(device: torch.device) -> float:
    """FLOP/s of a product of two large bf16 matrices."""
    side = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        torch.matmul(a, b)
    wait(device)
    started = time.perf_counter()
    for _ in range(10):
        torch.matmul(a, b)
    wait(device)
    return 10 * 2 * side**3 / (time.perf_counter() - started)


def streams_of(config: TrainConfig, shards: Path, cache: Path, device: torch.device, threads: int) -> dict[str, Stream]:
    every = {"labeled": open_samples(shards / "labeled"), "images": open_images(shards, ("labeled",))}
    every["unlabeled"] = every["images"]
    options: dict[str, Any] = {"cache": cache, "cache_bytes": 32 << 30, "threads": threads, "device": device}
    streams = {spec.name: Stream.of(spec, every[spec.name], config, **options) for spec in config.method.streams}
    for stream in streams.values():
        stream.make_ready()
    return streams


def measure(
    config: TrainConfig, shards: Path, cache: Path, device: torch.device, steps: int, threads: int, *, compiled: bool
) -> dict[str, float]:
    config = dataclasses.replace(config, compile=compiled)
    streams = streams_of(config, shards, cache, device, threads)
    torch.manual_seed(0)
    method = build_method(config.method, config.model, 10)
    method.prepare({name: len(stream) for name, stream in streams.items()}, config)
    engine = Engine(method, config, 2 * steps, device)
    method.train()
    images, done = sum(config.batch_sizes.values()), 0

    def step(batch: Mapping[str, Batch]) -> None:
        nonlocal done
        engine.train_step(batch, StepInfo(done, done / (10 * steps), 10.0))
        done += 1

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    one = next(iter(Loader(streams, 1)))
    flops = 0
    if not compiled:
        with FlopCounterMode(display=False) as counter:
            step(one)
        flops = counter.get_total_flops()
    for _ in range(8 if compiled else 3):
        step(one)
    wait(device)
    started = time.perf_counter()
    for _ in range(steps):
        step(one)
    wait(device)
    bare = steps * images / (time.perf_counter() - started)
    waited, loader = 0.0, iter(Loader(streams, steps + 5, threads=threads))
    for _ in range(5):
        step(next(loader))
    wait(device)
    started = time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        batch = next(loader)
        waited += time.perf_counter() - asked
        step(batch)
    wait(device)
    seconds = time.perf_counter() - started
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return {
        "images_per_s": steps * images / seconds,
        "bare_images_per_s": bare,
        "waiting": waited / seconds,
        "flops_per_image": flops / images,
        "peak_gib": memory / 2**30,
    }


class Folder(torch.utils.data.Dataset):
    """Two SimCLR views of JPEG files, made by PIL, as lightly's example makes them."""

    def __init__(self, files: list[bytes], size: int):
        self.files = files
        self.view = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, (0.2, 1.0)),
                transforms.RandomHorizontalFlip(),
                transforms.RandomApply([transforms.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
                transforms.RandomGrayscale(0.2),
                transforms.RandomApply([transforms.GaussianBlur(23)], 0.5),
                transforms.PILToTensor(),
                transforms.ToDtype(torch.float32, scale=True),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = Image.open(io.BytesIO(self.files[number])).convert("RGB")
        return self.view(image), self.view(image)


def usual_loop(config: TrainConfig, device: torch.device, steps: int, workers: int, images: int) -> float:
    """Images/s of the loop that everyone writes: DataLoader, PIL, bf16 autocast, NT-Xent."""
    files = [bytes(sample.image) for sample in synthetic(min(images, 2000), 240, 320)]
    data = torch.utils.data.DataLoader(
        Folder(files, config.image.size),
        config.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )
    backbone, width = build_backbone(config.model)
    model = nn.Sequential(backbone, nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 128)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.06, momentum=0.9)
    loss_of = in_float32(nt_xent)
    done, started = 0, 0.0
    while True:
        for first, second in data:
            with torch.autocast(device.type, torch.bfloat16):
                loss = loss_of(model(first.to(device)), model(second.to(device)), 0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if done == 3:
                wait(device)
                started = time.perf_counter()
            if done == 3 + steps:
                wait(device)
                return steps * config.batch_size / (time.perf_counter() - started)


def speed(device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    best = peak(device)
    print(f"  bf16 peak {best / 1e12:.1f} TFLOP/s")
    found: dict[str, Any] = {"bf16_peak_flops": best}
    for case in options.cases.split(","):
        config = CASES[case]
        if options.batch_size:
            config = dataclasses.replace(config, batch_size=options.batch_size)
        with tempfile.TemporaryDirectory() as work:
            shape = (32, 32) if config.image.size == 32 else (240, 320)
            labeled = Path(work) / "shards" / "labeled"
            write_tar(labeled, synthetic(options.images, *shape))
            flops = 0.0
            for compiled in (False, True) if options.compile else (False,):
                args = (config, labeled.parent, Path(work) / "cache", device, options.steps, options.threads)
                row = measure(*args, compiled=compiled)
                flops = row.pop("flops_per_image") or flops
                row["of_peak"] = flops * row["images_per_s"] / best
                name = f"{case}{'+compile' if compiled else ''}"
                found[name] = row
                print(
                    f"  {name:18} {row['images_per_s']:9,.0f} images/s   bare {row['bare_images_per_s']:9,.0f}   "
                    f"waiting {row['waiting']:6.1%}   {row['of_peak']:6.1%} of the peak   {row['peak_gib']:5.1f} GiB"
                )
            if case == "simclr":
                rate = usual_loop(config, device, min(options.steps, 20), options.threads, options.images)
                found["usual_loop"] = {"images_per_s": rate}
                print(f"  {'the usual loop':18} {rate:9,.0f} images/s")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="losses,waits,decoding,speed")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--batch-size", type=int, default=0, help="of the first stream, if not the case's own")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--images", type=int, default=6_000)
    parser.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, 16))
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {options.threads} threads")
    result: dict[str, Any] = {"device": name, "torch": torch.__version__}
    for part in options.parts.split(","):
        started = time.perf_counter()
        print(part)
        if part == "losses":
            result[part] = losses(device)
        elif part == "waits":
            result[part] = waits(device)
        elif part == "decoding":
            result[part] = decoding(device, options.threads)
        else:
            set_up(device)
            result[part] = speed(device, options)
        print(f"  {time.perf_counter() - started:.0f} s")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
