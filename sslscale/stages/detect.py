"""Measure a detector, or a segmentation network, on the annotated images of a split."""

from __future__ import annotations

from typing import Any

from sslscale.errors import DataError
from sslscale.graph.artifacts import Checkpoint, Dataset, Report
from sslscale.graph.context import RunContext
from sslscale.settings.detection import DetectConfig
from sslscale.storage.jsonio import write_json


def detect(ctx: RunContext, config: DetectConfig, *, model: Checkpoint, data: Dataset) -> Report:
    """Write report.json (COCO's average precisions of boxes and of masks, with intervals; or mIoU), detections.json
    (image, class, box and score of all that was found), and scenes.png (what is true beside what was found)."""
    import torch

    from sslscale.data.joined import open_scenes
    from sslscale.train.checkpoint import load_detector
    from sslscale.train.engine import best_device

    if config.split not in data.num_samples:
        raise DataError(f"there is no split {config.split!r} to find objects in; splits: {', '.join(data.num_samples)}")
    torch.set_num_threads(ctx.threads)
    network, info = load_detector(model.dir)
    samples = open_scenes(data.dir, (config.split,), local=ctx.local)
    if samples.index.classes != info.classes:
        raise DataError(f"{model.dir}: the detector's {len(info.classes)} classes are not those of the data")
    options = {"batch_size": config.batch_size, "threads": ctx.threads, "device": best_device(ctx.resources)}
    options["on_progress"] = lambda done: ctx.progress(done, len(samples))
    measure = _pixels if info.detector is not None and info.detector.semantic else _boxes
    result, metrics = measure(ctx, config, network, samples, info, options)
    write_json(ctx.path / "report.json", {"split": config.split, "images": len(samples), **result})
    return Report(path=str(ctx.path), metrics=metrics)


def _boxes(
    ctx: RunContext, config: DetectConfig, network: Any, samples: Any, info: Any, options: Any
) -> tuple[dict[str, Any], dict[str, float]]:
    import numpy as np

    from sslscale.evaluate.detection import average_precision, find
    from sslscale.report.scenes import Scene, draw_scenes

    found = find(network, samples, info.image, **options)
    shard, row = samples.places()
    true = [samples.objects_of(s, r) for s, r in zip(shard.tolist(), row.tolist(), strict=True)]
    kinds = {"boxes": False}
    if info.detector.instances:
        if not any(objects.masks for objects in true):
            raise DataError(f"{ctx.name}: the images of {config.split} have no masks to measure masks by")
        kinds["masks"] = True
    result: dict[str, Any] = {"objects": sum(int((~objects.crowd).sum()) for objects in true)}
    for name, masks in kinds.items():
        result[name] = average_precision(true, found, info.classes, masks=masks, groups=config.groups)
    keys = [samples.key(n) for n in range(len(samples))]
    write_json(
        ctx.path / "detections.json",
        [
            {
                "image": key,
                "class": info.classes[int(label)],
                "box": [round(float(x), 2) for x in box],
                "score": float(s),
            }
            for key, one in zip(keys, found, strict=True)
            for label, box, s in zip(one.objects.labels, one.objects.boxes, one.scores, strict=True)
        ],
    )
    chosen = np.random.default_rng([config.seed, 0x5CE]).permutation(len(samples))[: config.shown]
    draw_scenes(
        ctx.path / "scenes.png",
        [Scene(_pixels_of(samples, int(n)), true[n], found[n].objects, found[n].scores, info.classes) for n in chosen],
    )
    metrics = {name: result["boxes"][name] for name in ("ap", "ap50", "ap75")}
    if "masks" in result:
        metrics |= {f"mask_{name}": result["masks"][name] for name in ("ap", "ap50", "ap75")}
    return result, metrics


def _pixels(
    ctx: RunContext, config: DetectConfig, network: Any, samples: Any, info: Any, options: Any
) -> tuple[dict[str, Any], dict[str, float]]:
    import torch

    from sslscale.evaluate.detection import batches, count_pixels, segmentation_result
    from sslscale.report.scenes import draw_maps

    tables = count_pixels(network, samples, info.image, **options)
    result = segmentation_result(tables, info.classes, config.groups)
    own = {name: options[name] for name in ("threads", "device")}
    numbers, views, extra = next(batches(samples, info.image, ("semantic",), batch_size=config.shown, **own))
    with torch.inference_mode():
        said = network(views).argmax(1).cpu().numpy()
    pictures = [_pixels_of(samples, int(n)) for n in numbers]
    draw_maps(ctx.path / "scenes.png", pictures, extra["semantic"].numpy(), said, info.classes)
    return result, {name: result[name] for name in ("miou", "pixel_accuracy")}


def _pixels_of(samples: Any, number: int) -> Any:
    import numpy as np

    from sslscale.data.decode import decode

    shard, row = (int(x[0]) for x in samples.places(np.array([number])))
    return decode(samples.shards[shard].encoded(row)).permute(1, 2, 0).numpy()
