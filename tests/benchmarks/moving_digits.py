"""Videos of scikit-learn's digits that turn and move, as encoded files in class folders: the class is the digit.

    python tests/benchmarks/moving_digits.py OUT [--train 40] [--test 15] [--seed 0] [--seconds 2]

Each video, MPEG-4 of 48 x 48 pixels, 16 frames a second and 2 s long, shows one digit that turns at a speed of its own
and drifts. Two tones sound, in AAC: the pitch of the one is that of the class, the other's follows the angle. The
videos of OUT/test show other digits than those of OUT/train. OUT/poses/train and OUT/poses/test have single images of
the same digits, whose class is the angle, in 6 steps of 30 degrees: what a network must know of a frame to put frames
in order. Needs PyAV (`pip install 'sslscale[video]'`).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

SIDE, RATE, SOUND = 48, 16, 16000  # pixels, frames and samples a second


def draw(digit: Any, angle: float, x: float, y: float, rng: Any) -> Any:
    """A digit, uint8 (8, 8), turned by so many degrees at a place, uint8 (SIDE, SIDE), with noise."""
    import numpy as np
    from PIL import Image

    large = Image.fromarray(digit).resize((28, 28), Image.Resampling.BICUBIC)
    turned = large.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    canvas = Image.new("L", (SIDE, SIDE))
    canvas.paste(turned, (round(x + 14 - turned.width / 2), round(y + 14 - turned.height / 2)))
    noise = rng.normal(0, 4, (SIDE, SIDE))
    return (np.asarray(canvas, float) + noise).clip(0, 255).astype(np.uint8)


def write_poses(out: Path, digits: Any, names: list[str], rng: Any) -> None:
    """Write single images of these digits at random places, 6 of each, one for each range of angles."""
    from PIL import Image

    for digit, name in zip(digits, names, strict=True):
        for step in range(6):
            angle, (x, y) = -90 + 30 * step + rng.uniform(0, 30), rng.uniform(6, 14, 2)
            pixels = draw(digit, angle, x, y, rng)
            folder = out / f"{-90 + 30 * step}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{name}.png")


def tones(label: int, angles: Any, rng: Any) -> Any:
    """The sound of a video whose digit has these angles in degrees, one a frame: int16, SOUND samples a second."""
    import numpy as np

    samples = len(angles) * SOUND // RATE
    angle = np.interp(np.arange(samples) / SOUND, np.arange(len(angles)) / RATE, angles)
    time = np.arange(samples) / SOUND
    own = np.sin(2 * np.pi * 250 * 2 ** (label / 4) * time)
    turning = np.sin(2 * np.pi * np.cumsum(2500 * 2 ** (angle / 180)) / SOUND)
    sound = 0.3 * own + 0.3 * turning + 0.02 * rng.standard_normal(samples)
    return (32767 * sound.clip(-1, 1)).astype(np.int16)


def write_video(path: Path, digit: Any, label: int, rng: Any, seconds: float = 2) -> None:
    """Write one video of a digit, uint8 (8, 8), of this class."""
    import av
    import numpy as np

    angle, speed = rng.uniform(-60, 60), rng.choice([-1, 1]) * rng.uniform(45, 90)  # degrees, a second
    x, y = rng.uniform(6, 14, 2)
    direction, drift = rng.uniform(0, 2 * math.pi), rng.uniform(0, 3)
    angles = angle + speed * np.arange(round(RATE * seconds)) / RATE
    with av.open(str(path), "w") as container:
        track: Any = container.add_stream("mpeg4", rate=RATE)
        track.width = track.height = SIDE
        track.pix_fmt, track.bit_rate = "yuv420p", 400_000
        voice: Any = container.add_stream("aac", rate=SOUND, layout="mono")
        for number, turned in enumerate(angles):
            time = number / RATE
            shift = drift * time * math.cos(direction), drift * time * math.sin(direction)
            pixels = draw(digit, turned, x + shift[0], y + shift[1], rng)
            frame = av.VideoFrame.from_ndarray(np.repeat(pixels[..., None], 3, 2), format="rgb24")
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
        heard = av.AudioFrame.from_ndarray(tones(label, angles, rng)[None], format="s16", layout="mono")
        heard.sample_rate, heard.pts = SOUND, 0
        resampler = av.AudioResampler(format=voice.codec_context.format, layout="mono", rate=SOUND)
        for part in resampler.resample(heard):
            container.mux(voice.encode(part))
        container.mux(voice.encode(None))


def write_set(out: Path, train: int, test: int, seed: int, seconds: float = 2) -> None:
    """Write so many videos of each digit into OUT/train and OUT/test."""
    import numpy as np
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    rng = np.random.default_rng(seed)
    pixels = (found.images * (255 / 16)).round().astype("uint8")
    for digit in range(10):
        numbers = rng.permutation(np.flatnonzero(found.target == digit))
        for split, chosen in (("train", numbers[:train]), ("test", numbers[train : train + test])):
            folder = out / split / str(digit)
            folder.mkdir(parents=True, exist_ok=True)
            for number in chosen.tolist():
                write_video(folder / f"{number:04}.mp4", pixels[number], digit, rng, seconds)
            names = [f"{number:04}" for number in chosen.tolist()]
            write_poses(out / "poses" / split, pixels[chosen], names, rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=40, help="videos of each digit")
    parser.add_argument("--test", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=2, help="length of a video")
    options = parser.parse_args()
    write_set(options.out, options.train, options.test, options.seed, options.seconds)
    print(f"{10 * options.train:,} and {10 * options.test:,} videos in {options.out}")


if __name__ == "__main__":
    main()
