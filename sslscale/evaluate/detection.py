"""What a detector finds in images, and how good it is: COCO's average precision, mIoU of segmentation."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sslscale.data import decode
from sslscale.data.augment import normalize
from sslscale.data.image_views import RawViews
from sslscale.data.objects import Objects, encode_mask
from sslscale.data.samples import Samples
from sslscale.data.scene import IGNORED, place
from sslscale.data.scene_views import SceneViews
from sslscale.data.threads import pool
from sslscale.nn.detector import Detector, Segmenter
from sslscale.settings.augment import AugmentConfig
from sslscale.settings.model import ImageConfig
from sslscale.settings.streams import Field
from sslscale.shapes import Int

Kind = Literal["bbox", "segm"]
_SUMMARY = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
_PLAIN = AugmentConfig()


class Found(NamedTuple):
    """What was found in one image: boxes in its own pixels, the best first; masks as run lengths, if there are any."""

    objects: Objects
    scores: np.ndarray  # float32 (objects,)


def batches(
    samples: Samples,
    image: ImageConfig,
    fields: Sequence[Field],
    *,
    batch_size: int,
    threads: int,
    device: torch.device,
) -> Iterator[tuple[np.ndarray, Tensor, Mapping[Field, Tensor]]]:
    """The images on canvases, without augmentation: numbers, views (n, 3, size, size) on the device, fields."""
    views = SceneViews(samples, _PLAIN, image, fields, seed=0, threads=threads, device=device)

    def load(start: int) -> tuple[np.ndarray, RawViews]:
        numbers = np.arange(start, min(start + batch_size, len(samples)))
        index = torch.from_numpy(numbers)
        return numbers, views.load(*samples.places(numbers), index, torch.zeros_like(index))

    reader = pool("reader", 1)
    ahead = reader.submit(load, 0)  # the next batch is read while the network works on this one
    for start in range(0, len(samples), batch_size):
        numbers, raw = ahead.result()
        if start + batch_size < len(samples):
            ahead = reader.submit(load, start + batch_size)
        yield numbers, views.finish(raw)[0], raw.fields


def find(
    network: Detector,
    samples: Samples,
    image: ImageConfig,
    *,
    batch_size: int,
    threads: int,
    device: torch.device,
    at_least: float = 0.0,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[Found]:
    """What the detector finds in these images with a score of `at_least`, in their own pixels."""
    network = network.to(device).eval()
    result = []
    # placement alone: the images need no annotations
    fields: tuple[Field, ...] = ("placement",)
    for numbers, views, extra in batches(samples, image, fields, batch_size=batch_size, threads=threads, device=device):
        shard, row = samples.places(numbers)
        pairs = zip(shard.tolist(), row.tolist(), strict=True)
        sizes = [decode.dimensions(samples.shards[s].encoded(r)) for s, r in pairs]
        with torch.inference_mode():
            outputs = network(views)
        for one, placement, size in zip(outputs, extra["placement"].tolist(), sizes, strict=True):
            result.append(_on_image(one, placement, size, at_least))
        on_progress(len(result))
    return result


def find_in(
    network: Detector, encoded: Sequence[bytes], image: ImageConfig, device: torch.device, at_least: float
) -> list[Found]:
    """What the detector finds in encoded images, in their own pixels; raises DataError for one that is unreadable."""
    fill = torch.tensor([round(255 * m) for m in image.mean], dtype=torch.uint8)
    scenes = [place(memoryview(data), None, image.size, fill, 1.0, 0.0, 0.0, masks=False) for data in encoded]
    views = normalize(torch.stack([scene.pixels for scene in scenes]).to(device), image.mean, image.std)
    with torch.inference_mode():
        outputs = network(views)
    return [
        _on_image(one, scene.placement, decode.dimensions(data), at_least)
        for one, scene, data in zip(outputs, scenes, encoded, strict=True)
    ]


def _on_image(one: dict[str, Tensor], placement: Sequence[float], size: tuple[int, int], at_least: float) -> Found:
    """Boxes and masks of a canvas in the pixels of its image."""
    across, down, left, top = placement
    boxes, scores, labels = (one[name].float().cpu().numpy() for name in ("boxes", "scores", "labels"))
    boxes = (boxes + np.array([left, top] * 2)) / np.array([across, down] * 2)
    boxes = np.clip(boxes, 0, np.array([*size[::-1]] * 2)).astype(np.float32)
    kept = (scores >= at_least) & ((boxes[:, 2:] - boxes[:, :2]) > 0.01).all(1)
    masks: tuple[list[int], ...] = ()
    if "masks" in one:
        planes = one["masks"][torch.from_numpy(kept), 0].cpu().numpy() > 0.5
        masks = tuple(encode_mask(_resized(plane, placement, size)) for plane in planes)
    boxes, scores, labels = boxes[kept], scores[kept], labels[kept].astype(np.int64)
    return Found(Objects(size, boxes, labels, np.zeros(len(labels), bool), masks), scores)


def _resized(plane: np.ndarray, placement: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """A map of a canvas as one of its image: each pixel as the canvas has it where it lies."""
    across, down, left, top = placement
    rows = ((np.arange(size[0]) + 0.5) * down - top).astype(int).clip(0, plane.shape[0] - 1)
    columns = ((np.arange(size[1]) + 0.5) * across - left).astype(int).clip(0, plane.shape[1] - 1)
    return plane[rows[:, None], columns]


def average_precision(
    true: Sequence[Objects], found: Sequence[Found], classes: Sequence[str], *, masks: bool, groups: int
) -> dict[str, Any]:
    """COCO's average precision of boxes, or of masks: the mean over classes and over IoU .50 to .95, at .50, at .75,
    of small, medium and large objects, and of each class; with intervals of AP and AP50 (see `jackknife`).

    -1 means that there is no such object. Crowds are ignored.
    """
    kind: Kind = "segm" if masks else "bbox"
    truth = [_annotations(objects, masks) for objects in true]
    guesses = [
        [{**one, "score": float(score)} for one, score in zip(_annotations(f.objects, masks), f.scores, strict=True)]
        for f in found
    ]
    sizes = [objects.size for objects in true]
    stats, by_class = _coco(truth, guesses, sizes, len(classes), kind)
    result: dict[str, Any] = dict(zip(_SUMMARY, stats, strict=True))
    result["by_class"] = dict(zip(classes, by_class, strict=True))
    if groups:
        picked = jackknife(
            lambda kept: _coco(
                [truth[n] for n in kept], [guesses[n] for n in kept], [sizes[n] for n in kept], len(classes), kind
            )[0][:2],
            len(true),
            groups,
        )
        result |= {f"{name}_interval": picked[n] for n, name in enumerate(_SUMMARY[:2])}
    return result


def _annotations(objects: Objects, masks: bool) -> list[dict[str, Any]]:
    from faster_coco_eval.core import mask

    rows = []
    for n, (x0, y0, x1, y1) in enumerate(objects.boxes.astype(float).tolist()):
        one: dict[str, Any] = {
            "category_id": int(objects.labels[n]) + 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0),
            "iscrowd": int(objects.crowd[n]),
        }
        counts = objects.masks[n] if objects.masks else None
        if masks:
            if counts is None:  # a box without a mask, in a set that has some
                one["iscrowd"], counts = 1, _box_counts(objects, n)
            one["segmentation"] = mask.frPyObjects({"size": list(objects.size), "counts": list(counts)}, *objects.size)
        if counts is not None:  # as in COCO's annotations, by which an object is small, medium or large
            one["area"] = float(sum(counts[1::2]))
        rows.append(one)
    return rows


def _box_counts(objects: Objects, n: int) -> list[int]:
    plane = np.zeros(objects.size, bool)
    x0, y0, x1, y1 = objects.boxes[n].round().astype(int)
    plane[y0:y1, x0:x1] = True
    return encode_mask(plane)


def _coco(
    truth: Sequence[list[dict[str, Any]]],
    guesses: Sequence[list[dict[str, Any]]],
    sizes: Sequence[tuple[int, int]],
    num_classes: int,
    kind: Kind,
) -> tuple[list[float], list[float]]:
    """The six numbers of _SUMMARY, and AP of each class."""
    from faster_coco_eval import COCO, COCOeval_faster

    images = [{"id": n + 1, "height": h, "width": w} for n, (h, w) in enumerate(sizes)]
    flat = [{**one, "image_id": n + 1} for n, mine in enumerate(truth) for one in mine]
    annotations = [{**one, "id": k + 1} for k, one in enumerate(flat)]
    said = [{**one, "image_id": n + 1} for n, mine in enumerate(guesses) for one in mine]
    categories = [{"id": n + 1, "name": str(n)} for n in range(num_classes)]
    if not annotations or not said:
        return [0.0 if annotations else -1.0] * len(_SUMMARY), [0.0 if annotations else -1.0] * num_classes
    with contextlib.redirect_stdout(io.StringIO()):
        gold = COCO({"images": images, "annotations": annotations, "categories": categories})
        run = COCOeval_faster(gold, gold.loadRes(said), kind, print_function=lambda *line: None)
        run.evaluate()
        run.accumulate()
        run.summarize()
    precision = np.array(run.eval["precision"])  # iou, recall, class, area, most detections
    own = precision[:, :, :, 0, -1]
    by_class = [float(x[x > -1].mean()) if (x > -1).any() else -1.0 for x in np.moveaxis(own, 2, 0)]
    return [float(x) for x in run.stats[: len(_SUMMARY)]], by_class


def jackknife(
    estimate: Callable[[Sequence[int]], Sequence[float]], images: int, groups: int
) -> list[tuple[float, float]]:
    """95 % intervals of some statistics of images, from their values without one group of images after the other
    (Kott 2001's delete-a-group jackknife): the value of all of them, and Student's quantile times the error."""
    from scipy.stats import t

    groups = min(groups, images)
    if groups < 2:
        return [(value, value) for value in estimate(range(images))]
    whole = np.array(estimate(range(images)))
    parts = np.array([estimate([n for n in range(images) if n % groups != left]) for left in range(groups)])
    error = np.sqrt((groups - 1) / groups * ((parts - parts.mean(0)) ** 2).sum(0))
    reach = float(t.ppf(0.975, groups - 1)) * error
    return [(float(low), float(high)) for low, high in zip(whole - reach, whole + reach, strict=True)]


class Overlap(NamedTuple):
    """mIoU and IoU of each class that is there (class 0: none of them), and the share of pixels that are right."""

    miou: float
    by_class: list[float | None]
    pixel_accuracy: float


def overlap(counts: np.ndarray) -> Overlap:
    """Of a table of pixels, int64 (classes, classes): rows are the true classes, columns what was said."""
    right = np.diag(counts).astype(float)
    union = counts.sum(0) + counts.sum(1) - right
    there = counts.sum(1) > 0
    iou = right / np.maximum(union, 1)
    by_class = [float(x) if known else None for x, known in zip(iou, there, strict=True)]
    return Overlap(
        float(iou[there].mean()) if there.any() else 0.0, by_class, float(right.sum() / max(counts.sum(), 1))
    )


def pixel_table(true: Int[Tensor, "h w"], said: Int[Tensor, "h w"], classes: int) -> np.ndarray:
    """How many pixels of each true class were said to be of each class: int64 (classes, classes)."""
    counted = true != IGNORED
    flat = true[counted] * classes + said[counted]
    return torch.bincount(flat, minlength=classes**2).view(classes, classes).numpy()


def segmentation_result(tables: np.ndarray, classes: Sequence[str], groups: int) -> dict[str, Any]:
    """What the tables of all images come to: mIoU with its interval, the share of right pixels, IoU by class."""
    whole = overlap(tables.sum(0))
    result: dict[str, Any] = {"miou": whole.miou, "pixel_accuracy": whole.pixel_accuracy}
    result["by_class"] = dict(zip(("(none)", *classes), whole.by_class, strict=True))
    if groups:
        (interval,) = jackknife(lambda kept: [overlap(tables[list(kept)].sum(0)).miou], len(tables), groups)
        result["miou_interval"] = interval
    return result


def count_pixels(
    network: Segmenter,
    samples: Samples,
    image: ImageConfig,
    *,
    batch_size: int,
    threads: int,
    device: torch.device,
    on_progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """For each image a table of its pixels, true class by what was said: int64 (images, classes, classes)."""
    network = network.to(device).eval()
    fields: tuple[Field, ...] = ("semantic",)
    tables = []
    classes = len(samples.index.classes) + 1
    for numbers, views, extra in batches(samples, image, fields, batch_size=batch_size, threads=threads, device=device):
        with torch.inference_mode():
            said = network(views).argmax(1).cpu()
        tables += [pixel_table(*pair, classes) for pair in zip(extra["semantic"], said, strict=True)]
        on_progress(int(numbers[-1]) + 1)
    return np.stack(tables)
