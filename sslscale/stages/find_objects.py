"""What a detector finds in the unlabelled images: the boxes, and masks, that a student learns from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sslscale.errors import DataError
from sslscale.graph.artifacts import Checkpoint, Dataset, Detections
from sslscale.graph.context import RunContext
from sslscale.settings.detection import PseudoBoxConfig
from sslscale.storage.jsonio import read_json, write_json

SPLIT = "unlabeled"


def find_objects(ctx: RunContext, config: PseudoBoxConfig, *, teacher: Checkpoint, data: Dataset) -> Detections:
    """Write objects-%06d.jsonl, one file a shard, each when its shard is done: an interrupted stage goes on there."""
    from sslscale.cluster.mappers import Mappers
    from sslscale.data.index import read_index

    if SPLIT not in data.num_samples:
        raise DataError(f"{ctx.name}: the data has no unlabelled images: data.unlabeled names a folder of them")
    numbers = range(len(read_index(data.split(SPLIT)).shards))
    with Mappers(partial(_finder, teacher.dir, data.dir, config), ctx, len(numbers)) as mappers:
        counts = mappers.map(list(numbers))
    images, objects, empty = (sum(count[n] for count in counts) for n in range(3))
    metrics = {"objects_per_image": objects / max(images, 1), "empty_share": empty / max(images, 1)}
    return Detections(
        path=str(ctx.path), num_images=images, accounting={"objects": objects, "empty_images": empty}, metrics=metrics
    )


def _finder(model: object, data: object, config: PseudoBoxConfig, ctx: RunContext) -> Callable[[int], list[int]]:
    """The function that finds the objects of one shard: how many images, objects, and images without any."""
    from pathlib import Path

    import torch

    from sslscale.data.index import read_index
    from sslscale.data.joined import open_shard
    from sslscale.data.objects import found_file, write_found
    from sslscale.evaluate.detection import find
    from sslscale.nn.detector import Detector
    from sslscale.train.checkpoint import load_detector
    from sslscale.train.engine import best_device

    torch.set_num_threads(ctx.threads)
    network, info = load_detector(Path(str(model)))
    if not isinstance(network, Detector):
        raise DataError(f"{model}: gives pixels classes, not boxes: it is no teacher of pseudo-boxes")
    index = read_index(Path(str(data)) / SPLIT)

    def one(shard: int) -> list[int]:
        note = found_file(ctx.path, shard).with_suffix(".json")
        if note.exists() and found_file(ctx.path, shard).exists():
            return read_json(note)
        found = find(
            network,
            open_shard(index, shard, local=ctx.local),
            info.image,
            batch_size=config.batch_size,
            threads=ctx.threads,
            device=best_device(ctx.resources),
            at_least=config.threshold,
        )
        write_found(ctx.path, shard, [one.objects for one in found])
        counts = [len(one.objects.boxes) for one in found]
        write_json(note, [len(found), sum(counts), sum(not count for count in counts)])
        return read_json(note)

    return one
