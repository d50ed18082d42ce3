"""A look at the images of a source, for choosing a configuration that fits them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch

from sslscale.data import channels, decode, sources
from sslscale.data.items import Item
from sslscale.data.split import Split, split
from sslscale.errors import DataError
from sslscale.settings.data import PackConfig
from sslscale.settings.pixels import RGB, PixelConfig

_LOOKED_AT = 400
_OTHERS = (".png", ".tif", ".tiff", ".npy")  # may have other pixels than 8-bit RGB


@dataclass(frozen=True)
class Survey:
    """What was found. Sides are in pixels, of the images that were decoded; mean and std are of these, 0 to 1, one a
    channel."""

    count: int
    labeled: dict[str, int]  # images of each class
    looked_at: int
    short_sides: tuple[int, int, int]  # smallest, median, largest
    gray: float  # share without colour
    mean: tuple[float, ...]
    std: tuple[float, ...]
    suffixes: dict[str, int]
    bad: tuple[str, ...]  # what could not be read, with the reason
    notes: tuple[str, ...]
    pixels: PixelConfig = RGB  # what the images are

    @property
    def num_labeled(self) -> int:
        """How many images have a label."""
        return sum(self.labeled.values())

    @property
    def num_unlabeled(self) -> int:
        """How many images have none."""
        return self.count - self.num_labeled


def survey(source: str, labels: str | None, *, seed: int = 0) -> Survey:
    """List a source and decode some of its images, drawn by the seed; raises DataError as packing does."""
    done: Split = split(PackConfig(source=source, labels=labels), sources.list_source(source))
    items = [item for part in done.parts.values() for item in part]
    chosen = random.Random(seed).sample(items, min(_LOOKED_AT, len(items)))  # noqa: S311
    pixels = _pixels(chosen)
    sides: list[int] = []
    means, squares, gray, bad = [], [], 0, []
    for item in chosen:
        try:
            image = decode.decode(item.read(), pixels=pixels)
        except (DataError, OSError) as error:
            bad.append(f"{item.where}: {error}")
            continue
        sides.append(min(image.shape[-2:]))
        values = decode.fit(image, 64).float() / (255 if pixels.bits == 8 else 65535)
        gray += int(bool((values.amax(0) - values.amin(0)).max() < 0.02))
        means.append(values.mean((1, 2)))
        squares.append(values.square().mean((1, 2)))
    if not sides:
        raise DataError(f"{source}: none of {len(chosen)} images can be read; the first: {bad[0]}")
    mean = torch.stack(means).mean(0)
    std = (torch.stack(squares).mean(0) - mean.square()).clamp(min=1e-4).sqrt()
    counts = Counter(item.label for item in items if item.label is not None)
    return Survey(
        count=len(items),
        labeled={name: counts.get(name, 0) for name in done.classes},
        looked_at=len(chosen),
        short_sides=(min(sides), int(median(sides)), max(sides)),
        gray=gray / len(sides),
        mean=_rounded(mean),
        std=_rounded(std),
        suffixes=dict(Counter(item.suffix for item in items)),
        bad=tuple(bad),
        notes=done.notes,
        pixels=pixels,
    )


def _rounded(values: torch.Tensor) -> tuple[float, ...]:
    return tuple(float(f"{float(value):.3g}") for value in values)


def _pixels(items: Sequence[Item]) -> PixelConfig:
    """What most of the images are, of those formats that may be other than 8-bit RGB."""
    found: Counter[tuple[int, str]] = Counter()
    low, high = float("inf"), float("-inf")
    for item in items:
        if item.suffix not in _OTHERS:
            found[3, "uint8"] += 1
            continue
        try:
            count, kind, (least, most) = channels.facts(item.read(), max_pixels=decode.MAX_PIXELS)
        except (DataError, OSError):
            continue
        alpha = item.suffix == ".png" and count in (2, 4)
        found[count - alpha, kind.name] += 1
        low, high = min(low, least), max(high, most)
    if not found:
        return RGB
    (count, kind), _ = found.most_common(1)[0]
    if kind == "uint8":
        return RGB if count in (1, 3) else PixelConfig(channels=count)
    # numbers that take up less than half of 16 bits, as those of 12 bits do, are given a range of their own
    own = kind != "uint16" or high < 1 << 15
    return PixelConfig(channels=count, bits=16, range=(min(low, 0.0), max(high, low + 1.0)) if own else None)
