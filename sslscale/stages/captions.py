"""The captions of a data set as tokens: read once, counted, and joined to their images while training."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sslscale.errors import DataError
from sslscale.graph.artifacts import Captions, Dataset
from sslscale.graph.context import RunContext
from sslscale.graph.dag import cpu_only
from sslscale.settings.text import CaptionConfig

log = logging.getLogger(__name__)


@cpu_only
def captions(ctx: RunContext, config: CaptionConfig, *, data: Dataset) -> Captions:
    """Write SPLIT/features-%06d.npy, uint16 (samples, context), and SPLIT/usable.npy; shards that are done are kept.

    Raises DataError for captions that cannot be used, unless they are to be skipped, with their numbers and the first
    of each kind.
    """
    import numpy as np

    from sslscale.cluster.mappers import Mappers
    from sslscale.data.captions import USABLE
    from sslscale.data.features import write_array
    from sslscale.data.index import read_index
    from sslscale.storage import jsonio

    splits = tuple(split for split in config.splits if split in data.num_samples)
    if not splits:
        raise DataError(f"{ctx.name}: the data has none of the splits {', '.join(config.splits)}")
    items = [(split, n) for split in splits for n in range(len(read_index(data.split(split)).shards))]
    waiting = [item for item in items if not _note(ctx.path, item).exists()]
    done = [len(items) - len(waiting)]

    def finished(item: tuple[str, int], samples: int) -> None:
        done[0] += 1
        ctx.progress(done[0], len(items))

    with Mappers(partial(make_reader, data.dir, config), ctx, len(waiting)) as mappers:
        mappers.map(waiting, finished=finished)
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for item in items:
        note = jsonio.read_json(_note(ctx.path, item))
        counts.update(note["counts"])
        first = {**note["first"], **first}
    _require(ctx.name, config, counts, first)
    for split in splits:
        numbers = [n for name, n in items if name == split]
        files = [ctx.path / split / f"features-{n:06d}.npy" for n in numbers]
        rows = [np.load(file, mmap_mode="r", allow_pickle=False)[:, 0] > 0 for file in files]
        write_array(ctx.path / split / USABLE, np.concatenate(rows))
    total = sum(counts.values())
    skipped = total - counts["used"] - counts["cut"]
    assert total == sum(data.num_samples[split] for split in splits), (counts, data.num_samples)
    if not total - skipped:
        raise DataError(f"{ctx.name}: no image has a caption in {_file(config)}; see captions.member")
    if skipped or counts["cut"]:
        lines = [f"{count:,} {name.replace('_', ' ')}" for name, count in sorted(counts.items()) if name != "used"]
        log.warning("of %s captions %s", f"{total:,}", ", ".join(lines))
    return Captions(
        path=str(ctx.path),
        num_samples={split: data.num_samples[split] for split in splits},
        context=config.context,
        accounting=dict(counts),
        metrics={"captions": total - skipped, "skipped": skipped},
    )


def _note(folder: Path, item: tuple[str, int]) -> Path:
    return folder / item[0] / f"captions-{item[1]:06d}.json"


def _file(config: CaptionConfig) -> str:
    kind, _, field = config.member.partition(":")
    return f"KEY.{kind}" + (f", field {field}" if field else "")


def _require(name: str, config: CaptionConfig, counts: Counter[str], first: dict[str, str]) -> None:
    """Raise DataError for what the settings call an error."""
    from sslscale.data.captions import UNUSABLE

    wrong = [kind for kind in UNUSABLE if counts[kind]] if config.on_unusable == "error" else []
    if config.on_long == "error" and counts["too_long"]:
        wrong.append("too_long")
    if not wrong:
        return
    parts = [f"{counts[kind]:,} {kind.replace('_', ' ')} (such as {first[kind]})" for kind in wrong]
    raise DataError(
        f"{name}: of {sum(counts.values()):,} captions in {_file(config)}, {'; '.join(parts)}: mend them, or skip "
        "their images by captions.on_unusable and captions.on_long"
    )


def make_reader(data: Path, config: CaptionConfig, ctx: RunContext) -> Callable[[tuple[str, int]], int]:
    """Load the tokenizer once a process; returns the function that reads the captions of one shard."""
    import numpy as np

    from sslscale.data.captions import USED, read_captions
    from sslscale.data.features import write_array
    from sslscale.data.index import read_index
    from sslscale.data.shards import open_shard
    from sslscale.nn.open_clip_towers import count_tokens, tokenizer
    from sslscale.storage import jsonio

    indexes = {split: read_index(data / split) for split in config.splits if (data / split).is_dir()}
    tokenize = tokenizer(config.context)

    def read(item: tuple[str, int]) -> int:
        split, number = item
        shard = open_shard(indexes[split], number, ctx.local)
        found = read_captions(shard, config.member)
        long = "cut" if config.on_long == "cut" else "too_long"
        kinds = [long if k == USED and count_tokens(text) > config.context else k for k, text in found]
        kept = np.array([kind in (USED, "cut") for kind in kinds])
        tokens = np.zeros((len(kinds), config.context), np.uint16)
        if kept.any():
            tokens[kept] = tokenize([text for (_, text), keep in zip(found, kept, strict=True) if keep]).numpy()
        write_array(ctx.path / split / f"features-{number:06d}.npy", tokens)
        first: dict[str, str] = {}
        for key, kind in zip(shard.keys, kinds, strict=True):
            if kind != USED:
                first.setdefault(kind, f"{shard.path.name}: {key}")
        jsonio.write_json(_note(ctx.path, item), {"counts": dict(Counter(kinds)), "first": first})
        return len(kinds)

    return read
