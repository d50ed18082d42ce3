"""A teacher's predictions for unlabelled images: one table a shard, each written once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslscale.graph.artifacts import Checkpoint, Dataset, Scores
from sslscale.graph.context import RunContext
from sslscale.settings.pseudo import ScoreConfig

if TYPE_CHECKING:
    from sslscale.cluster.mappers import Pipelined


def score(ctx: RunContext, config: ScoreConfig, *, teacher: Checkpoint, data: Dataset) -> Scores:
    """Score every unlabelled image with the teacher in eval mode, without noise or augmentation.

    Writes scores-%06d.parquet: key, label (the most probable class), confidence, entropy (nats) and probs. Shards that
    are scored already are not scored again.
    """
    from sslscale.cluster.mappers import Mappers
    from sslscale.data.index import read_index

    index = read_index(data.split("unlabeled"))
    waiting = [n for n in range(len(index.shards)) if not (ctx.path / f"scores-{n:06d}.parquet").exists()]
    shards = len(index.shards) - len(waiting)
    scored = index.num_samples - sum(index.shards[number].samples for number in waiting)
    make = partial(make_scorer, teacher.dir, data.split("unlabeled"), config)

    def finished(number: int, samples: int) -> None:
        nonlocal shards, scored
        shards, scored = shards + 1, scored + samples
        ctx.log(shards, {"shard": number, "scored": scored})
        ctx.progress(scored, index.num_samples)

    with Mappers(make, ctx, len(waiting)) as mappers:
        mappers.map(waiting, finished=finished)
    return Scores(path=str(ctx.path), num_samples=index.num_samples, metrics={"scored": index.num_samples})


def make_scorer(teacher: Path, unlabeled: Path, config: ScoreConfig, ctx: RunContext) -> Pipelined:
    """Load the teacher once a process; returns what reads one shard and what scores it."""
    import numpy as np
    import torch

    from sslscale.cluster.mappers import Pipelined
    from sslscale.data.images import Images
    from sslscale.data.index import read_index
    from sslscale.data.reading import open_one
    from sslscale.data.shard import Shard
    from sslscale.evaluate.outputs import network_outputs
    from sslscale.train.checkpoint import load_model
    from sslscale.train.engine import best_device

    torch.set_num_threads(ctx.threads)
    device = best_device(ctx.resources)
    network, info = load_model(teacher)
    index = read_index(unlabeled)

    def fetch(number: int) -> tuple[Shard, Images]:
        return open_one(ctx, index, number, info.image)

    def score_shard(number: int, fetched: tuple[Shard, Images]) -> int:
        shard, images = fetched
        rows = np.arange(len(shard))
        logits = network_outputs(
            network,
            info.image,
            images,
            np.zeros_like(rows),
            rows,
            batch_size=config.batch_size,
            device=device,
            precision=config.precision,
        )
        file = ctx.path / f"scores-{number:06d}.parquet"
        write_scores(file, shard.keys, logits.softmax(-1).numpy(), config.kept(logits.shape[1]))
        return len(shard)

    return Pipelined(fetch, score_shard)


def write_scores(file: Path, keys: list[str], probs: Any, kept: int) -> None:
    """Write one table of scores, in one rename. `probs` is float32 (samples, classes).

    If fewer than all classes are `kept`, the most probable ones of each image are, as float16.
    """
    import numpy as np
    import pyarrow as pa

    from sslscale.data import parquet

    num_classes = probs.shape[1]
    entropy = -(probs * np.log(np.clip(probs, 1e-30, None))).sum(1)
    columns: dict[str, Any] = {
        "key": pa.array(keys, pa.string()),
        "label": pa.array(probs.argmax(1).astype(np.int32)),
        "confidence": pa.array(probs.max(1).astype(np.float32)),
        "entropy": pa.array(entropy.astype(np.float32)),
    }
    if kept < num_classes:
        order = np.argsort(-probs, axis=1, kind="stable")[:, :kept].astype(np.int32)
        columns["classes"] = pa.FixedSizeListArray.from_arrays(pa.array(order.ravel()), kept)
        probs = np.take_along_axis(probs, order, axis=1).astype(np.float16)
    flat = pa.array(np.ascontiguousarray(probs).ravel())
    columns["probs"] = pa.FixedSizeListArray.from_arrays(flat, probs.shape[1])
    parquet.write(file, pa.table(columns))
