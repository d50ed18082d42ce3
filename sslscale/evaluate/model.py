"""A trained network for use: features, classes and probabilities of image files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sslscale.data import decode
from sslscale.data.augment import normalize
from sslscale.data.preparation import evaluation_view
from sslscale.data.sources import SUFFIXES, image_files
from sslscale.errors import DataError
from sslscale.evaluate.detection import find_in
from sslscale.nn.detector import Detector
from sslscale.settings.model import ModelInfo
from sslscale.shapes import Float
from sslscale.train.checkpoint import load_backbone, load_detector, load_model
from sslscale.train.engine import best_device

BATCH = 64
Paths = str | os.PathLike | Sequence[str | os.PathLike]


class Model:
    """A checkpoint, loaded for use. Images are prepared as they were for its evaluation.

    `paths` of the methods are image files, and folders, which stand for the images below them in the order of their
    names (`files` lists them).
    """

    def __init__(self, folder: Path, *, threads: int | None = None, device: torch.device | None = None):
        """Load the checkpoint in a folder; raises DataError if there is none."""
        self.folder, self.device = folder, device or best_device()
        self.backbone, self.info = load_backbone(folder)
        self.head: nn.Module | None = None
        if self.info.head:
            classifier, _ = load_model(folder)
            self.backbone, self.head = classifier.backbone, classifier.head.to(self.device)
        self.backbone = self.backbone.to(self.device)
        if threads is not None:
            torch.set_num_threads(threads)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes it tells apart; none for a pre-trained backbone."""
        return self.info.classes if self.info.head else ()

    def features(self, paths: Paths) -> Float[np.ndarray, "images dim"]:
        """The backbone's features, float32, a row an image. Raises DataError for one that cannot be read."""
        return self._all(paths, probabilities=False)

    def probabilities(self, paths: Paths) -> Float[np.ndarray, "images classes"]:
        """The probability of each class, float32, a row an image. Raises DataError as `features` does."""
        return self._all(paths, probabilities=True)

    def predict(self, paths: Paths, top: int = 1) -> list[list[tuple[str, float]]]:
        """For each image its `top` most probable classes with their probabilities. Raises DataError."""
        return [self.named(row, top) for row in self.probabilities(paths)]

    def objects(self, paths: Paths, threshold: float = 0.5) -> list[list[dict[str, Any]]]:
        """What a detector finds in each image: class, score and box (x0, y0, x1, y1 in the image's pixels) of objects
        whose score reaches the threshold, the best first. Raises DataError for an image that cannot be read, or for a
        checkpoint that is no detector."""
        rows = []
        for file, found in self.found(files(paths), threshold):
            if isinstance(found, str):
                raise DataError(f"{file}: {found}")
            rows.append(found)
        return rows

    def found(self, images: Iterable[Path], threshold: float) -> Iterator[tuple[Path, list[dict[str, Any]] | str]]:
        """Yield the objects of each image, or why it could not be read; raises DataError as `objects` does."""
        network, _ = load_detector(self.folder)
        if not isinstance(network, Detector):
            raise DataError(f"{self.folder}: gives pixels classes, and finds no objects")
        network = network.to(self.device)
        for image in images:
            data = _read(image)
            try:
                if isinstance(data, str):
                    raise DataError(data)
                (one,) = find_in(network, [data], self.info.image, self.device, threshold)
            except DataError as error:
                yield image, str(error)
                continue
            boxes, labels = one.objects.boxes.tolist(), one.objects.labels.tolist()
            yield (
                image,
                [
                    {"class": self.info.classes[n], "score": float(score), "box": [round(x, 1) for x in box]}
                    for n, score, box in zip(labels, one.scores, boxes, strict=True)
                ],
            )

    def named(self, probabilities: np.ndarray, top: int) -> list[tuple[str, float]]:
        """The most probable classes of one image by name."""
        order = np.argsort(-probabilities, kind="stable")[:top]
        return [(self.info.classes[n], float(probabilities[n])) for n in order.tolist()]

    def _all(self, paths: Paths, *, probabilities: bool) -> np.ndarray:
        rows = []
        for file, found in self.outputs(files(paths), probabilities=probabilities):
            if isinstance(found, str):
                raise DataError(f"{file}: {found}")
            rows.append(found)
        return np.stack(rows)

    def outputs(self, images: Iterable[Path], *, probabilities: bool) -> Iterator[tuple[Path, np.ndarray | str]]:
        """Yield each image's features or probabilities, or why it could not be read; raises DataError for a backbone
        that is asked for probabilities."""
        if probabilities and self.head is None:
            raise DataError(f"{self.folder}: a pre-trained backbone without a classifier: fine-tune it or probe it")
        waiting: list[Path] = []
        for image in images:
            waiting.append(image)
            if len(waiting) == BATCH:
                yield from zip(waiting, self.rows(map(_read, waiting), probabilities=probabilities), strict=True)
                waiting = []
        yield from zip(waiting, self.rows(map(_read, waiting), probabilities=probabilities), strict=True)

    def rows(self, images: Iterable[bytes | str], *, probabilities: bool) -> list[np.ndarray | str]:
        """Features or probabilities of a batch of encoded images, or why one could not be read; an image that is a str
        could not be, and why."""
        views = [_view(image, self.info) if isinstance(image, bytes) else image for image in images]
        good = [view for view in views if isinstance(view, Tensor)]
        found: Iterator[np.ndarray] = iter(())
        if good:
            with torch.inference_mode():
                batch = normalize(torch.stack(good).to(self.device), self.info.image.mean, self.info.image.std)
                output = self.backbone(batch)
                if probabilities:
                    assert self.head is not None
                    output = self.head(output).float().softmax(-1)
                found = iter(output.float().cpu().numpy())
        return [view if isinstance(view, str) else next(found) for view in views]


def files(paths: Paths) -> list[Path]:
    """The image files that paths name, those below folders in the order of their names; raises DataError for none."""
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    found = [file for path in map(Path, given) for file in (sorted(image_files(path)) if path.is_dir() else [path])]
    if not found:
        raise DataError(f"{', '.join(map(str, given))}: no images there ({', '.join(SUFFIXES)})")
    return found


def _read(file: Path) -> bytes | str:
    try:
        return file.read_bytes()
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _view(data: bytes, info: ModelInfo) -> Tensor | str:
    try:
        image = decode.decode(data, pixels=info.image.pixels)
        return evaluation_view(image, info.image.size, info.image.crop)
    except DataError as error:
        return str(error)
