"""Clips a second: the loader on packed clips against decoding the videos each time by PyAV or torchcodec, in one run.

    PYTHONPATH=. python tests/benchmarks/videos.py [--threads 2] [--clips 600] [--side 48]

Videos of digits that turn (tests/benchmarks/moving_digits.py), with `--side` enlarged to so many pixels; a clip is 16
frames at 32 pixels, flipped and normalised. The plain loaders are a pool of threads that open, decode and resize; both
libraries decode outside Python's lock. torchcodec is measured if it is installed, with ffmpeg's libraries.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2.functional import resize

from sslscale.data.films import of_file
from sslscale.data.joined import open_clips
from sslscale.data.pack import pack
from sslscale.data.stream import Stream
from sslscale.data.videos import frames_of
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.data import PackConfig, VideoConfig
from sslscale.settings.model import ImageConfig
from tests.benchmarks.moving_digits import write_set

SIDE, BATCH, VIDEO = 32, 32, VideoConfig(frames=16, fps=8)
MEAN, STD = torch.full((3, 1, 1), 0.1), torch.full((3, 1, 1), 0.25)


def by_pyav(file: Path) -> torch.Tensor:
    """The frames of a clip, uint8 (16, 3, SIDE, SIDE)."""
    frames = frames_of(of_file(file), 0, VIDEO, SIDE)
    return torch.stack([torch.from_numpy(np.asarray(x).copy()).permute(2, 0, 1) for x in frames])


def by_torchcodec(file: Path) -> torch.Tensor:
    """The same by torchcodec."""
    decoders: Any = importlib.import_module("torchcodec.decoders")
    decoder = decoders.VideoDecoder(str(file), num_ffmpeg_threads=1)
    frames = decoder.get_frames_played_at([(k + 0.5) / VIDEO.fps for k in range(VIDEO.frames)]).data
    return resize(frames, [SIDE, SIDE], antialias=True)


def plain(decode: Callable[[Path], torch.Tensor], files: list[Path], threads: int, count: int) -> float:
    """Clips a second of a pool of threads that decode each clip anew."""

    def one(number: int) -> torch.Tensor:
        clip = decode(files[number % len(files)]).float() / 255
        return ((clip.flip(3) if random.random() < 0.5 else clip) - MEAN) / STD

    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        for first in range(0, count, BATCH):
            torch.stack(list(pool.map(one, range(first, first + BATCH))))
        return count / (time.perf_counter() - start)


def ours(folder: Path, cache: Path, threads: int, count: int) -> tuple[float, float]:
    """Clips a second of the loader, and the seconds in which the decoded files were made."""
    image = ImageConfig(size=SIDE, mean=(0.1, 0.1, 0.1), std=(0.25, 0.25, 0.25))
    options: dict[str, Any] = {"views": [AugmentConfig(crop="none", flip=True)], "fields": (), "cache_bytes": None}
    stream = Stream(
        "images", open_clips(folder, ("labeled",)), batch_size=BATCH, seed=0, image=image, cache=cache, threads=threads,
        **options,
    )  # fmt: skip
    start = time.perf_counter()
    stream.make_ready()
    made = time.perf_counter() - start
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        chosen = [stream.choose(step) for step in range(count // BATCH)]
        for _ in pool.map(lambda where: stream.finish(stream.load(*where)), chosen):
            pass
        return count / (time.perf_counter() - start), made


def enlarge(files: list[Path], side: int) -> None:
    """Write the videos anew at so many pixels a side."""
    import av

    for file in files:
        with av.open(str(file)) as source:
            frames = [frame.reformat(side, side) for frame in source.decode(source.streams.video[0])]
        with av.open(str(file), "w") as container:
            track: Any = container.add_stream("mpeg4", rate=16)
            track.width, track.height, track.pix_fmt, track.bit_rate = side, side, "yuv420p", 2_000_000
            for number, frame in enumerate(frames):
                frame.pts, frame.time_base = number, Fraction(1, 16)
                container.mux(track.encode(frame))
            container.mux(track.encode(None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--clips", type=int, default=640)
    parser.add_argument("--side", type=int, help="pixels of the videos that are decoded each time (48)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_set(root / "videos", train=16, test=0, seed=0)
        start = time.perf_counter()
        pack(PackConfig(source=str(root / "videos/train"), video=VIDEO, resize=SIDE), root / "packed", threads=2)
        packed = time.perf_counter() - start
        files = sorted((root / "videos/train").rglob("*.mp4"))
        if options.side:
            enlarge(files, options.side)
        slow = {"PyAV": [plain(by_pyav, files, options.threads, options.clips) for _ in range(3)]}
        try:
            importlib.import_module("torchcodec.decoders")
            slow["torchcodec"] = [plain(by_torchcodec, files, options.threads, options.clips) for _ in range(3)]
        except (ImportError, RuntimeError) as error:
            print(f"torchcodec is not measured: {type(error).__name__}")
        found = [ours(root / "packed", root / "cache", options.threads, 4 * options.clips) for _ in range(3)]
    fast = sorted(speed for speed, _ in found)[1]
    print(f"packing {len(files)} clips, once: {packed:.1f} s; decoding the frames, once: {found[0][1]:.1f} s")
    print(f"packed and decoded once: {fast:,.0f} clips a second")
    for name, speeds in slow.items():
        print(f"{name} each time: {sorted(speeds)[1]:,.0f} clips a second; ratio {fast / sorted(speeds)[1]:.1f}")


if __name__ == "__main__":
    main()
