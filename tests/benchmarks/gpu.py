"""The whole training step on one device, with torch, torchvision and numpy alone.

    python tests/benchmarks/gpu.py [--cases resnet18_32,resnet50_224,vit_s_224] [--steps 100] [--compile] [--json]

Two SimCLR views an image, bf16 autocast, channels-last, AdamW. For each case: images/s of the loop with its data and
without (one batch that is there already), the share of the loop's time spent waiting for data, and the arithmetic done
(forward and backward, counted by torch) as a share of the device's own bf16 peak, measured here by a large product of
matrices. Images are synthetic JPEGs in shards: 32 x 32, and 320 x 240 kept at a short side of 256.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sslscale.data.loader import Loader, Stream
from sslscale.data.samples import open_samples
from sslscale.data.shards import Sample, write_shards
from sslscale.methods.simclr import nt_xent
from sslscale.recipes.augment import AugmentConfig, BlurConfig, JitterConfig
from sslscale.recipes.model import ImageConfig


def synthetic(count: int, height: int, width: int) -> Iterator[Sample]:
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        buffer = io.BytesIO()
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        yield Sample(f"s{number:08d}", buffer.getvalue(), "jpg")


def network(name: str) -> nn.Module:
    models = torchvision.models
    if name == "resnet18":
        made = models.resnet18(num_classes=128)
        made.conv1, made.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()  # pyright: ignore
        return made
    if name == "resnet50":
        return models.resnet50(num_classes=128)
    return models.VisionTransformer(224, 16, 12, 6, 384, 1536, num_classes=128)


def peak(device: torch.device, side: int) -> float:
    """FLOP/s of a product of two large bf16 matrices."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        torch.matmul(a, b)
    _wait(device)
    started = time.perf_counter()
    for _ in range(10):
        torch.matmul(a, b)
    _wait(device)
    return 10 * 2 * side**3 / (time.perf_counter() - started)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    case: str, batch: int, steps: int, compiled: bool, device: torch.device, images: int, threads: int
) -> dict[str, float]:
    name, _, side = case.rpartition("_")
    px = int(side)
    model = network(name).to(device, memory_format=torch.channels_last)  # pyright: ignore
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=device.type == "cuda")
    forward = torch.compile(model) if compiled else model

    def step(views: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            first, second = forward(torch.cat(views)).chunk(2)
        nt_xent(first, second, 0.5).backward()
        optimizer.step()

    with tempfile.TemporaryDirectory() as work:
        shape = (32, 32) if px == 32 else (240, 320)
        write_shards(Path(work) / "shards", "x", synthetic(images, *shape), (), 500)
        stream = Stream(
            "unlabeled",
            open_samples(Path(work) / "shards", labels=False),
            batch_size=batch,
            seed=0,
            image=ImageConfig(size=px, short_side=None if px == 32 else 256),
            views=[
                AugmentConfig(
                    crop="resized",
                    flip=True,
                    jitter=JitterConfig(),
                    grayscale=0.2,
                    blur=None if px == 32 else BlurConfig(),
                    count=2,
                )
            ],
            cache=Path(work) / "cache",
            cache_bytes=32 << 30,
            threads=threads,
            device=device,
        )
        one = next(iter(Loader({"u": stream}, 1)))["u"].views
        with FlopCounterMode(display=False) as counter:
            step(one)
        for _ in range(5):
            step(one)
        _wait(device)
        started = time.perf_counter()
        for _ in range(steps):
            step(one)
        _wait(device)
        bare = steps * batch / (time.perf_counter() - started)
        waited = 0.0
        loader = iter(Loader({"u": stream}, steps + 5, threads=threads))
        for _ in range(5):
            step(next(loader)["u"].views)
        _wait(device)
        started = time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            views = next(loader)["u"].views
            waited += time.perf_counter() - asked
            step(views)
        _wait(device)
        seconds = time.perf_counter() - started
    return {
        "images_per_s": steps * batch / seconds,
        "bare_images_per_s": bare,
        "waiting": waited / seconds,
        "flops": counter.get_total_flops() * steps / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="resnet18_32,resnet50_224,vit_s_224")
    parser.add_argument("--batch-size", type=int, default=0, help="0: 512 at 32 pixels, 128 at 224")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    best = peak(device, 8192 if device.type == "cuda" else 1024)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    result: dict[str, Any] = {"device": name, "torch": torch.__version__, "bf16_peak_flops": best}
    print(f"{name}, torch {torch.__version__}: {best / 1e12:.1f} TFLOP/s in bf16")
    for case in options.cases.split(","):
        batch = options.batch_size or (512 if case.endswith("_32") else 128)
        row = measure(case, batch, options.steps, options.compile, device, options.images, options.threads)
        row["of_peak"] = row["flops"] / best
        result[case] = row
        print(
            f"  {case:14} {row['images_per_s']:9,.0f} images/s   bare {row['bare_images_per_s']:9,.0f}   "
            f"waiting for data {row['waiting']:6.1%}   {row['of_peak']:6.1%} of the peak"
        )
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
