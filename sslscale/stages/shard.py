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

    version: int = field(default=2, init=False)


@cpu_only
def shard(ctx: RunContext, config: ShardConfig, *, selection: Selection, data: Dataset) -> ShardSet:
    """Write pseudo-%06d.tar with KEY.jpg|png|webp, KEY.cls and KEY.soft.npy; shards already written are kept."""
    import numpy as np

    from sslscale.cluster.mappers import Mappers
    from sslscale.data.index import read_index, shard_info, write_index
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
    found = [jsonio.read_json(note) for note in notes]
    labels = np.concatenate([np.array(one.pop("labels"), np.int64) for one in found])
    pixels = read_index(data.split("unlabeled")).pixels
    index = write_index(ctx.path, [shard_info(one) for one in found], data.classes, labels, soft=True, pixels=pixels)
    metrics = {"images": index.num_samples, "bytes": sum(info.bytes for info in index.shards)}
    return ShardSet(path=str(ctx.path), num_samples=index.num_samples, metrics=metrics)


def make_writer(selection: Path, unlabeled: Path, seed: int, shard_size: int, ctx: RunContext) -> Callable[[int], int]:
    """Open the selection once a process; returns the function that writes one shard."""
    import numpy as np

    from sslscale.data.selection import open_selected
    from sslscale.data.sources import usable_key
    from sslscale.data.write import Sample, write_shard
    from sslscale.storage import jsonio

    samples = open_selected(selection, unlabeled, seed=seed, shard_size=shard_size, local=ctx.local)

    def write(number: int) -> int:
        numbers = np.arange(number * shard_size, min((number + 1) * shard_size, len(samples)))
        labels = samples.field("soft_label", numbers).argmax(1)
        assert samples.soft is not None and samples.entry is not None
        soft, entry = samples.soft, samples.entry[numbers]
        shard, row = samples.places(numbers)

        def sample(position: int) -> Sample:
            source = samples.shards[int(shard[position])].sample(int(row[position]))
            return source._replace(
                key=usable_key(samples.key(int(numbers[position]))),
                label=int(labels[position]),
                soft=soft.stored(int(entry[position])),
                shape=samples.index.shards[int(shard[position])].shape,
            )

        info = write_shard(ctx.path / f"pseudo-{number:06d}.tar", map(sample, range(len(numbers))))
        note = {**info._asdict(), "labels": labels.tolist()}
        jsonio.write_json(ctx.path / f"pseudo-{number:06d}.json", note)
        return len(numbers)

    return write
