"""A look at the images of a source, for choosing a configuration that fits them."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from statistics import median

import torch

from sslscale.data import decode, sources
from sslscale.data.split import Split, split
from sslscale.errors import DataError
from sslscale.settings.data import PackConfig

_LOOKED_AT = 400


@dataclass(frozen=True)
class Survey:
    """What was found. Sides are in pixels, of the images that were decoded; mean and std are of these, 0 to 1."""

    count: int
    labeled: dict[str, int]  # images of each class
    looked_at: int
    short_sides: tuple[int, int, int]  # smallest, median, largest
    gray: float  # share without colour
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    suffixes: dict[str, int]
    bad: tuple[str, ...]  # what could not be read, with the reason
    notes: tuple[str, ...]

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
    sides: list[int] = []
    means, squares, gray, bad = [], [], 0, []
    for item in chosen:
        try:
            image = decode.decode(item.read())
        except (DataError, OSError) as error:
            bad.append(f"{item.where}: {error}")
            continue
        sides.append(min(image.shape[-2:]))
        pixels = decode.fit(image, 64).float() / 255
        gray += int(bool((pixels.amax(0) - pixels.amin(0)).max() < 0.02))
        means.append(pixels.mean((1, 2)))
        squares.append(pixels.square().mean((1, 2)))
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
    )


def _rounded(values: torch.Tensor) -> tuple[float, float, float]:
    red, green, blue = (round(float(value), 3) for value in values)
    return red, green, blue
