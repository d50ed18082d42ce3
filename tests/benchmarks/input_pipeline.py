"""Two SimCLR views an image, ready to train on: our loader against lightly, torchvision v2, kornia and webdataset.

    pip install -c infra/constraints.txt -e '.[bench]'
    python tests/benchmarks/input_pipeline.py CIFAR_FOLDER [--px 32,224] [--workers 2] [--seconds 10] [--json]

CIFAR_FOLDER is an image folder of CIFAR-10 (class folders of JPEG or PNG). At 32 px its images are read as they are; at
224 px the loaders read JPEGs of about 500 x 375 pixels, half of them pieces of the photographs that scikit-image and
scikit-learn ship, half CIFAR-10 images enlarged. Every loader has the same images, batch, augmentation and number of
workers (ours: threads); a rate counts images after the first batch, so that nobody's start-up is in it. `ours` reads
what it decoded in an earlier epoch; `ours_uncached` decodes each time. The rates named cold are of a whole first epoch
with all its preparation: ours (which decodes and keeps the images) against plain webdataset with torchvision v2.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms import v2

from sslscale.data.loader import Loader
from sslscale.data.pack import pack
from sslscale.data.samples import open_samples
from sslscale.data.stream import Stream
from sslscale.settings.augment import AugmentConfig, BlurConfig, JitterConfig
from sslscale.settings.data import PackConfig
from sslscale.settings.model import ImageConfig
from sslscale.storage.scratch import Local

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def strength(px: int) -> float:
    return 0.5 if px == 32 else 1.0


def recipe(px: int) -> AugmentConfig:
    s = strength(px)
    jitter = JitterConfig(brightness=0.8 * s, contrast=0.8 * s, saturation=0.8 * s, hue=0.2 * s)
    return AugmentConfig(
        crop="resized", flip=True, jitter=jitter, grayscale=0.2, blur=BlurConfig() if px > 32 else None
    )


def torchvision_view(px: int) -> v2.Transform:
    s = strength(px)
    steps = [
        v2.RandomResizedCrop(px, scale=(0.08, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s)], 0.8),
        v2.RandomGrayscale(0.2),
    ]
    if px > 32:
        steps.append(v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], 0.5))
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])


class TwoViews:
    def __init__(self, px: int):
        self.view = torchvision_view(px)

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.view(image), self.view(image)


def load_rgb(path: str) -> Tensor:
    return decode_image(read_file(path), mode=ImageReadMode.RGB)


def rate(batches: Iterable[int], seconds: float) -> float:
    """Images a second, from the end of the first batch on; epochs follow one another until the time is up."""
    it = iter(batches)
    next(it)
    count, started = 0, time.perf_counter()
    for size in it:
        count += size
        if time.perf_counter() - started > seconds:
            break
    return count / (time.perf_counter() - started)


def forever(loader: Any, size: Any) -> Iterator[int]:
    for _ in itertools.count():
        for batch in loader:
            yield size(batch)


def stream(shards: Path, px: int, batch: int, workers: int, cache: Path | None) -> Stream:
    made = Stream(
        "train",
        open_samples(shards, labels=False, local=None if cache is None else Local(cache)),
        batch_size=batch,
        seed=0,
        image=ImageConfig(size=px, short_side=256 if px > 32 else None, mean=MEAN, std=STD),
        views=[AugmentConfig(**{**vars(recipe(px)), "count": 2})],
        cache=cache,
        cache_bytes=8 << 30,
        threads=workers,
    )
    if cache is not None:
        made.make_ready()
    return made


def ours(shards: Path, px: int, batch: int, workers: int, cache: Path | None) -> Iterator[int]:
    for made in Loader({"train": stream(shards, px, batch, workers, cache)}, 1 << 40, threads=workers):
        yield len(made["train"].index)


def lightly(folder: Path, px: int, batch: int, workers: int) -> Iterator[int]:
    blur = 0.5 if px > 32 else 0.0
    transforms: Any = importlib.import_module("lightly.transforms")
    transform = transforms.SimCLRTransform(input_size=px, cj_strength=strength(px), gaussian_blur=blur)
    data = importlib.import_module("lightly.data").LightlyDataset(str(folder), transform=transform)
    loader = DataLoader(data, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True)
    return forever(loader, lambda made: len(made[1]))


def torchvision(folder: Path, px: int, batch: int, workers: int) -> Iterator[int]:
    data = ImageFolder(str(folder), transform=TwoViews(px), loader=load_rgb)  # pyright: ignore[reportArgumentType]
    loader = DataLoader(data, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True)
    return forever(loader, lambda made: len(made[1]))


def kornia(folder: Path, px: int, batch: int, workers: int) -> Iterator[int]:
    """Decoding (and bringing to one size, which a batch needs) in the workers, augmentation on batches."""
    K: Any = importlib.import_module("kornia.augmentation")
    s = strength(px)
    steps: list[Any] = [
        K.RandomResizedCrop((px, px), scale=(0.08, 1.0)),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s, p=0.8),
        K.RandomGrayscale(p=0.2),
    ]
    if px > 32:
        steps.append(K.RandomGaussianBlur((23, 23), (0.1, 2.0), p=0.5))
    view = K.AugmentationSequential(*steps, K.Normalize(torch.tensor(MEAN), torch.tensor(STD)), data_keys=["input"])
    fit = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(256)]) if px > 32 else None
    data = ImageFolder(str(folder), transform=fit, loader=load_rgb)  # pyright: ignore[reportArgumentType]
    loader = DataLoader(data, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True)

    def augmented() -> Iterator[int]:
        while True:
            for images, _ in loader:
                pixels = images.float() / 255
                both = view(pixels), view(pixels)
                yield len(both[0])

    return augmented()


def plain_webdataset(shards: Path, px: int, batch: int, workers: int) -> Any:
    import webdataset as wds

    files = sorted(map(str, shards.glob("*.tar")))
    views = TwoViews(px)

    def decode(sample: dict) -> tuple[Tensor, Tensor]:
        data = next(sample[name] for name in ("jpg", "png", "webp", "jpeg") if name in sample)
        return views(decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB))

    data = wds.WebDataset(files, shardshuffle=len(files), empty_check=False).shuffle(1000).map(decode)  # pyright: ignore
    return wds.WebLoader(data.batched(batch), batch_size=None, num_workers=workers)  # pyright: ignore


def photographs(folder: Path, cifar: Path, count: int) -> None:
    """JPEGs of about 500 x 375: pieces of real photographs, and CIFAR-10 images enlarged."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    shipped: Any = importlib.import_module("skimage.data")
    pictures = [shipped.astronaut(), shipped.coffee(), shipped.chelsea(), *load_sample_images().images]
    small = sorted(cifar.rglob("*.jpg")) or sorted(cifar.rglob("*.png"))
    for number in range(count):
        if number % 2:
            picture = Image.fromarray(pictures[int(rng.integers(len(pictures)))])
            height = int(picture.height * rng.uniform(0.6, 1.0))
            width = min(int(height * 4 / 3), picture.width)
            left, top = int(rng.integers(picture.width - width + 1)), int(rng.integers(picture.height - height + 1))
            picture = picture.crop((left, top, left + width, top + height))
        else:
            picture = Image.open(small[int(rng.integers(len(small)))]).convert("RGB")
        place = folder / str(number % 2)
        place.mkdir(parents=True, exist_ok=True)
        picture.resize((500, 375), Image.Resampling.BICUBIC).save(place / f"{number:05d}.jpg", quality=90)


def first_epoch(batches: Iterable[int]) -> float:
    started = time.perf_counter()
    return sum(batches) / (time.perf_counter() - started)


def contest(
    folder: Path, shards: Path, cache: Path, px: int, batch: int, workers: int, seconds: float, wanted: list[str]
) -> dict[str, float]:
    def cold_ours() -> Iterator[int]:
        made = stream(shards, px, batch, workers, cache)
        for b in Loader({"train": made}, -(-len(made) // batch), threads=workers):
            yield len(b["train"].index)

    def cold_webdataset() -> Iterator[int]:
        for b in plain_webdataset(shards, px, batch, workers):
            yield len(b[0])

    cold = {"ours_cold": cold_ours, "webdataset_cold": cold_webdataset}
    warm = {
        "ours": lambda: ours(shards, px, batch, workers, cache),
        "ours_uncached": lambda: ours(shards, px, batch, workers, None),
        "lightly": lambda: lightly(folder, px, batch, workers),
        "torchvision": lambda: torchvision(folder, px, batch, workers),
        "kornia": lambda: kornia(folder, px, batch, workers),
        "webdataset": lambda: forever(plain_webdataset(shards, px, batch, workers), lambda made: len(made[0])),
    }
    row = {name: first_epoch(make()) for name, make in cold.items() if not wanted or name in wanted}
    stream(shards, px, batch, workers, cache)  # its cache is there now: what is measured is a second epoch
    return {**row, **{name: rate(make(), seconds) for name, make in warm.items() if not wanted or name in wanted}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("--px", default="32,224")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--photographs", type=int, default=1024)
    parser.add_argument("--only", default="", help="names of loaders, by comma")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.workers)
    work = Path(tempfile.mkdtemp())
    result: dict[str, Any] = {}
    for px in map(int, options.px.split(",")):
        folder, batch, shard_size = options.cifar, 256, 1000
        if px > 32:
            folder, batch, shard_size = work / "photographs", 64, 64
            photographs(folder, options.cifar, options.photographs)
        pack(PackConfig(source=str(folder), shard_size=shard_size), work / f"shards-{px}", threads=options.workers)
        places = folder, work / f"shards-{px}" / "labeled", work / f"cache-{px}"
        wanted = [name for name in options.only.split(",") if name]
        row = contest(*places, px, batch, options.workers, options.seconds, wanted)
        result[f"{px}px"] = row
        print(f"{px} px, {options.workers} workers" + " " * 14 + "images/s   ours is faster by")
        for name, value in row.items():
            print(f"  {name:24} {value:14,.0f}   {row.get('ours', float('nan')) / value:8.1f}")
    if options.json:
        print(json.dumps(result))
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
