"""Write a student's pseudo-labelled shards: raw image bytes, teacher's distributions, shuffled across shards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from sslscale.graph.artifacts import Dataset, Selection, ShardSet
from sslscale.graph.context import RunContext
from sslscale.graph.dag import cpu_only


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """Nothing to set: the selection says all."""

    version: int = field(default=1, init=False)


@cpu_only
def shard(ctx: RunContext, config: ShardConfig, *, selection: Selection, data: Dataset) -> ShardSet:
    """Write pseudo-%06d.tar with KEY.jpg|png|webp, KEY.cls and KEY.soft.npy; shards already written are kept."""
    from sslscale.cluster.mappers import Mappers
    from sslscale.data.index import ShardInfo, write_index
    from sslscale.storage import jsonio

    count = -(-selection.num_samples // selection.shard_size)
    notes = [ctx.path / f"pseudo-{number:06d}.json" for number in range(count)]
    waiting = [number for number, note in enumerate(notes) if not note.exists()]
    make = partial(make_writer, selection.dir, data.split("unlabeled"), selection.seed, selection.shard_size)
    done = [count - len(waiting)]

    def finished(number: int, samples: int) -> None:
        done[0] += 1
        ctx.progress(done[0], count)

    with Mappers(make, ctx, len(waiting)) as mappers:
        mappers.map(waiting, finished=finished)
    infos = [ShardInfo(**jsonio.read_json(note)) for note in notes]
    index = write_index(ctx.path, infos, data.classes)
    metrics = {"images": index.num_samples, "bytes": sum(info.bytes for info in infos)}
    return ShardSet(path=str(ctx.path), num_samples=index.num_samples, metrics=metrics)


def make_writer(selection: Path, unlabeled: Path, seed: int, shard_size: int, ctx: RunContext) -> Callable[[int], int]:
    """Open the selection once a process; returns the function that writes one shard."""
    import numpy as np

    from sslscale.data.selection import open_selected
    from sslscale.data.write import Sample, write_shard
    from sslscale.storage import jsonio

    samples = open_selected(selection, unlabeled, seed=seed, shard_size=shard_size)

    def write(number: int) -> int:
        numbers = np.arange(number * shard_size, min((number + 1) * shard_size, len(samples)))
        soft = samples.field("soft_label", numbers) if samples.has_soft else None
        assert soft is not None
        shard, row = samples.places(numbers)

        def sample(position: int) -> Sample:
            n = int(numbers[position])
            source = samples.shards[int(shard[position])].sample(int(row[position]))
            return source._replace(key=samples.key(n), label=int(soft[position].argmax()), soft=soft[position])

        info = write_shard(ctx.path / f"pseudo-{number:06d}.tar", map(sample, range(len(numbers))))
        jsonio.write_json(ctx.path / f"pseudo-{number:06d}.json", info._asdict())
        return len(numbers)

    return write
