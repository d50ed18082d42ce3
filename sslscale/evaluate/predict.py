"""Classes and probabilities for image files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from sslscale.data import decode
from sslscale.data.augment import normalize
from sslscale.data.preparation import evaluation_view
from sslscale.data.sources import SUFFIXES, image_files
from sslscale.errors import DataError
from sslscale.train.checkpoint import load_model
from sslscale.train.engine import best_device

BATCH = 64


def predict(
    model: Path, paths: Sequence[Path], *, top: int, threads: int
) -> Iterator[tuple[Path, list[tuple[str, float]] | str]]:
    """Yield each image's `top` most probable classes, or why it could not be read. Folders stand for their images.

    Raises DataError if there is none, or no checkpoint.
    """
    network, info = load_model(model)
    device = best_device()
    network = network.to(device)
    torch.set_num_threads(threads)
    files = [file for path in paths for file in (_below(path) if path.is_dir() else [path])]
    if not files:
        raise DataError(f"{', '.join(map(str, paths))}: no images there ({', '.join(SUFFIXES)})")
    for start in range(0, len(files), BATCH):
        chunk = files[start : start + BATCH]
        views = [_view(file, info.image.size, info.image.crop) for file in chunk]
        good = [view for view in views if isinstance(view, torch.Tensor)]
        probs: Iterator[torch.Tensor] = iter(())
        if good:
            with torch.inference_mode():
                batch = normalize(torch.stack(good).to(device), info.image.mean, info.image.std)
                probs = iter(network(batch).float().softmax(-1).cpu())
        for file, view in zip(chunk, views, strict=True):
            if isinstance(view, str):
                yield file, view
            else:
                share, number = next(probs).topk(min(top, len(info.classes)))
                names = [info.classes[n] for n in number.tolist()]
                yield file, list(zip(names, share.tolist(), strict=True))


def _below(folder: Path) -> list[Path]:
    return sorted(image_files(folder))


def _view(file: Path, size: int, crop: float) -> torch.Tensor | str:
    try:
        return evaluation_view(decode.decode(file.read_bytes()), size, crop)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except DataError as error:
        return str(error)
