"""A teacher's predictions for unlabelled images: one table a shard, each written once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sslscale.errors import DataError
from sslscale.graph.artifacts import Checkpoint, Dataset, Scores
from sslscale.graph.context import RunContext
from sslscale.settings.pseudo import ScoreConfig


def score(ctx: RunContext, config: ScoreConfig, *, teacher: Checkpoint, data: Dataset) -> Scores:
    """Score every unlabelled image with the teacher in eval mode, without noise or augmentation.

    Writes scores-%06d.parquet: key, status (null, or why the image could not be scored), label (the most probable
    class), confidence, entropy (nats) and probs. Shards that are scored already are not scored again.
    """
    from sslscale.cluster.mappers import Mappers
    from sslscale.data.images import bad_allowed
    from sslscale.data.index import read_index

    index = read_index(data.split("unlabeled"))
    allowed = bad_allowed(config.on_bad_sample, index.num_samples)
    total, waiting = Counter[str](), []
    for number in range(len(index.shards)):
        counts = _counts(ctx.path / f"scores-{number:06d}.parquet")
        if counts is None:
            waiting.append(number)
        else:
            total.update({**counts, "shards": 1})
    make = partial(make_scorer, teacher.dir, data.split("unlabeled"), config)

    def finished(number: int, counts: dict[str, int]) -> None:
        total.update({**counts, "shards": 1})
        scored, failed = total["samples"], total["failed"]
        ctx.log(total["shards"], {"shard": number, "scored": scored, **counts})
        ctx.progress(scored, index.num_samples)
        if failed > allowed:
            raise DataError(f"{ctx.name}: {failed} of {scored:,} images cannot be decoded, over 1 %: see {ctx.path}")

    with Mappers(make, ctx, len(waiting)) as mappers:
        mappers.map(waiting, finished=finished)
    failed = total["failed"]
    metrics = {"scored": index.num_samples - failed, "failed": failed}
    return Scores(path=str(ctx.path), num_samples=index.num_samples, num_failed=failed, metrics=metrics)


def _counts(file: Path) -> dict[str, int] | None:
    if not file.exists():
        return None
    from sslscale.data import parquet

    status = parquet.read(file, ["status"])["status"]
    return {"samples": len(status), "failed": len(status) - status.null_count}


def make_scorer(
    teacher: Path, unlabeled: Path, config: ScoreConfig, ctx: RunContext
) -> Callable[[int], dict[str, int]]:
    """Load the teacher once a process; returns the function that scores one shard."""
    import numpy as np
    import torch

    from sslscale.data.index import read_index
    from sslscale.data.reading import open_one
    from sslscale.evaluate.outputs import network_outputs
    from sslscale.train.checkpoint import load_model
    from sslscale.train.engine import best_device

    torch.set_num_threads(ctx.threads)
    device = best_device(ctx.resources)
    network, info = load_model(teacher)
    index = read_index(unlabeled)

    def score_shard(number: int) -> dict[str, int]:
        shard, images = open_one(ctx, index, number, info.image, config.on_bad_sample)
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
        write_scores(file, shard.keys, logits.softmax(-1).numpy(), images.bad[0], config.top_k)
        return {"samples": len(shard), "failed": len(images.bad[0])}

    return score_shard


def write_scores(file: Path, keys: list[str], probs: Any, bad: Any, top_k: int) -> None:
    """Write one table of scores, in one rename. `probs` is float32 (samples, classes)."""
    import numpy as np
    import pyarrow as pa

    from sslscale.data import parquet

    num_classes = probs.shape[1]
    entropy = -(probs * np.log(np.clip(probs, 1e-30, None))).sum(1)
    columns: dict[str, Any] = {
        "key": pa.array(keys, pa.string()),
        "status": pa.array([bad.get(row) for row in range(len(keys))], pa.string()),
        "label": pa.array(probs.argmax(1).astype(np.int32)),
        "confidence": pa.array(probs.max(1).astype(np.float32)),
        "entropy": pa.array(entropy.astype(np.float32)),
    }
    if 0 < top_k < num_classes:
        order = np.argsort(-probs, axis=1, kind="stable")[:, :top_k].astype(np.int32)
        columns["classes"] = pa.FixedSizeListArray.from_arrays(pa.array(order.ravel()), top_k)
        probs = np.take_along_axis(probs, order, axis=1)
    flat = pa.array(np.ascontiguousarray(probs, np.float32).ravel())
    columns["probs"] = pa.FixedSizeListArray.from_arrays(flat, probs.shape[1])
    parquet.write(file, pa.table(columns))
