"""Segmentation by the nearest patches of a frozen backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale.data.samples import Samples
from sslscale.data.scene import IGNORED
from sslscale.evaluate.detection import batches, pixel_table
from sslscale.evaluate.knn import nearest
from sslscale.nn.pyramid import StageMaps
from sslscale.settings.model import ImageConfig
from sslscale.shapes import Float, Int


def place_labels(semantic: Int[Tensor, "batch size size"], side: int, classes: int) -> Int[Tensor, "batch side side"]:
    """The most frequent class of the pixels of each of side x side places, IGNORED if that is no class."""
    known = F.one_hot(torch.where(semantic == IGNORED, classes, semantic), classes + 1).permute(0, 3, 1, 2).float()
    found = F.adaptive_avg_pool2d(known, side).argmax(1)
    return torch.where(found == classes, IGNORED, found)


@torch.no_grad()
def bank_of(
    network: StageMaps,
    samples: Samples,
    image: ImageConfig,
    *,
    most: int,
    seed: int,
    batch_size: int,
    threads: int,
    device: torch.device,
    on_progress: Callable[[int], None] = lambda done: None,
) -> tuple[Float[Tensor, "places dim"], Int[Tensor, " places"]]:
    """Features and classes of places of the training images, at most so many, drawn evenly from all images."""
    network = network.to(device).eval()
    each = max(most // max(len(samples), 1), 1)
    generator = torch.Generator().manual_seed(seed)
    features, labels = [], []
    classes = len(samples.index.classes) + 1
    options = {"batch_size": batch_size, "threads": threads, "device": device}
    for numbers, views, extra in batches(samples, image, ("semantic",), **options):
        maps = network(views)[-1].float()
        wanted = place_labels(extra["semantic"], maps.shape[2], classes).flatten(1)
        rows = maps.flatten(2).transpose(1, 2).cpu()
        for own, label in zip(rows, wanted, strict=True):
            usable = torch.nonzero(label != IGNORED)[:, 0]
            chosen = usable[torch.randperm(len(usable), generator=generator)[:each]]
            features.append(own[chosen])
            labels.append(label[chosen])
        on_progress(int(numbers[-1]) + 1)
    return torch.cat(features)[:most], torch.cat(labels)[:most]


@torch.no_grad()
def count_by_nearest(
    network: StageMaps,
    bank: Float[Tensor, "places dim"],
    labels: Int[Tensor, " places"],
    samples: Samples,
    image: ImageConfig,
    ks: Sequence[int],
    *,
    batch_size: int,
    threads: int,
    device: torch.device,
    on_progress: Callable[[int], None] = lambda done: None,
) -> dict[int, np.ndarray]:
    """For each k a table of pixels of each image, true class by that of the nearest places: int64 (images, c, c)."""
    network = network.to(device).eval()
    bank, labels = bank.to(device), labels.to(device)
    classes = len(samples.index.classes) + 1
    tables: dict[int, list[np.ndarray]] = {k: [] for k in ks}
    options = {"batch_size": batch_size, "threads": threads, "device": device}
    for numbers, views, extra in batches(samples, image, ("semantic",), **options):
        maps = network(views)[-1].float()
        side = maps.shape[2]
        _, place = nearest(bank, maps.flatten(2).transpose(1, 2).flatten(0, 1), max(ks))
        votes = F.one_hot(labels[place], classes)
        for k in ks:
            said = votes[:, :k].sum(1).argmax(1).view(len(views), 1, side, side).float()
            pixels = F.interpolate(said, views.shape[2:], mode="nearest")[:, 0].long().cpu()
            tables[k] += [pixel_table(*pair, classes) for pair in zip(extra["semantic"], pixels, strict=True)]
        on_progress(int(numbers[-1]) + 1)
    return {k: np.stack(found) for k, found in tables.items()}
