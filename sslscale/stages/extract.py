"""A frozen network's features of every image: one file a shard, each written once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sslscale.errors import DataError
from sslscale.graph.artifacts import Checkpoint, Dataset, Embeddings
from sslscale.graph.context import RunContext
from sslscale.settings.features import ExtractConfig

if TYPE_CHECKING:
    from sslscale.cluster.mappers import Pipelined


def extract(ctx: RunContext, config: ExtractConfig, *, model: Checkpoint, data: Dataset) -> Embeddings:
    """Write SPLIT/features-%06d.npy, float16 (samples, dim); shards that have their file already are not read again.

    Raises DataError for an image whose features are not finite.
    """
    from sslscale.cluster.mappers import Mappers
    from sslscale.data.features import Features
    from sslscale.data.index import read_index

    splits = tuple(split for split in config.splits if split in data.num_samples)
    if not splits:
        raise DataError(f"{ctx.name}: the data has none of the splits {', '.join(config.splits)}")
    items = [(split, n) for split in splits for n in range(len(read_index(data.split(split)).shards))]
    waiting = [(split, n) for split, n in items if not (ctx.path / split / f"features-{n:06d}.npy").exists()]
    done = [len(items) - len(waiting)]

    def finished(item: tuple[str, int], samples: int) -> None:
        done[0] += 1
        ctx.progress(done[0], len(items))

    with Mappers(partial(make_extractor, model.dir, data.dir, config), ctx, len(waiting)) as mappers:
        mappers.map(waiting, finished=finished)
    features = Features(ctx.path, splits)
    counts = {split: data.num_samples[split] for split in splits}
    metrics = {"images": len(features), "dim": features.dim}
    return Embeddings(path=str(ctx.path), num_samples=counts, dim=features.dim, metrics=metrics)


def make_extractor(model: Path, data: Path, config: ExtractConfig, ctx: RunContext) -> Pipelined:
    """Load the network once a process; returns what reads one shard and what computes its features."""
    import numpy as np
    import torch

    from sslscale.cluster.mappers import Pipelined
    from sslscale.data.features import write_array
    from sslscale.data.images import Images
    from sslscale.data.index import read_index
    from sslscale.data.reading import open_one
    from sslscale.data.shard import Shard
    from sslscale.evaluate.outputs import network_outputs
    from sslscale.evaluate.patches import PatchMean
    from sslscale.train.checkpoint import load_backbone, load_model
    from sslscale.train.engine import best_device

    torch.set_num_threads(ctx.threads)
    device = best_device(ctx.resources)
    backbone, info = load_model(model) if config.output == "logits" else load_backbone(model)
    if config.patches:
        backbone = PatchMean(backbone, config.patches, config.patch_area, config.patch_size or info.image.size)

    indexes = {split: read_index(data / split) for split in config.splits if (data / split).is_dir()}

    def fetch(item: tuple[str, int]) -> tuple[Shard, Images]:
        split, number = item
        return open_one(ctx, indexes[split], number, info.image)

    def extract_shard(item: tuple[str, int], fetched: tuple[Shard, Images]) -> int:
        split, number = item
        shard, images = fetched
        rows = np.arange(len(shard))
        found = network_outputs(
            backbone,
            info.image,
            images,
            np.zeros_like(rows),
            rows,
            batch_size=config.batch_size,
            device=device,
            precision=config.precision,
        )
        with np.errstate(over="ignore"):  # told below, with the key
            features = found.numpy().astype(np.float16)
        wrong = np.flatnonzero(~np.isfinite(features).all(1))
        if len(wrong):
            raise DataError(
                f"{ctx.name}: {shard.path}: {shard.key(int(wrong[0]))}: its features are not finite as float16 (65,504 "
                f"at most), as are those of {len(wrong) - 1} more: has the training of {model} diverged?"
            )
        write_array(ctx.path / split / f"features-{number:06d}.npy", features)
        return len(shard)

    return Pipelined(fetch, extract_shard)
