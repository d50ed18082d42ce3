"""The transcripts of labelled lines as characters: read once, counted, and joined to their lines while training."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sslscale.errors import DataError
from sslscale.graph.artifacts import Dataset, Transcripts
from sslscale.graph.context import RunContext
from sslscale.graph.dag import cpu_only
from sslscale.settings.lines import TranscriptConfig

log = logging.getLogger(__name__)
SPLIT = "labeled"


@cpu_only
def transcripts(ctx: RunContext, config: TranscriptConfig, *, data: Dataset) -> Transcripts:
    """Write labeled/features-%06d.npy, uint16 (lines, longest), labeled/usable.npy and alphabet.txt.

    Raises DataError for transcripts that cannot be used, unless they are to be skipped, with their numbers and the
    first of each kind.
    """
    import numpy as np

    from sslscale.cluster.mappers import Mappers
    from sslscale.data import alphabet as characters
    from sslscale.data.captions import USABLE
    from sslscale.data.features import write_array
    from sslscale.data.index import read_index

    if SPLIT not in data.num_samples:
        raise DataError(f"{ctx.name}: the data has no labelled lines: pack them with data.lines and data.captions")
    numbers = range(len(read_index(data.split(SPLIT)).shards))
    with Mappers(partial(make_reader, data.dir, config), ctx, len(numbers)) as mappers:
        read = mappers.map(list(numbers))
    texts = [text for _, own in read for text in own]
    if config.alphabet == "data":
        found = tuple(sorted({char for text in texts for char in text}))
    else:
        found = characters.read_alphabet(Path(config.alphabet))
    if not found:
        raise DataError(f"{ctx.name}: no labelled line has a transcript in KEY.{config.member}; see transcripts.member")
    (ctx.path / "alphabet.txt").write_text("".join(f"{char}\n" for char in found), "utf-8")
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    usable = []
    for number, (keys, own) in zip(numbers, read, strict=True):
        kinds = [characters.why_unusable(text, found, config.longest) for text in own]
        rows = characters.encode(
            [t if not kind else "" for t, kind in zip(own, kinds, strict=True)], found, config.longest
        )
        write_array(ctx.path / SPLIT / f"features-{number:06d}.npy", rows)
        usable += [not kind for kind in kinds]
        for key, kind, text in zip(keys, kinds, own, strict=True):
            counts[kind or "used"] += 1
            first.setdefault(kind, f"{key}: {text[:40]!r}")
    write_array(ctx.path / SPLIT / USABLE, np.array(usable))
    wrong = [f"{counts[kind]:,} {kind} (such as {first[kind]})" for kind in sorted(counts) if kind != "used"]
    line = f"{ctx.name}: of {len(usable):,} labelled lines {'; '.join(wrong)}"
    if wrong and (config.on_unusable == "error" or not counts["used"]):
        raise DataError(f"{line}: mend them, or leave them out by transcripts.on_unusable: skip")
    if wrong:
        log.warning("%s", line)
    return Transcripts(
        path=str(ctx.path),
        alphabet=found,
        longest=config.longest,
        accounting=dict(counts),
        metrics={"lines": counts["used"], "skipped": len(usable) - counts["used"], "characters": len(found)},
    )


def make_reader(data: Path, config: TranscriptConfig, ctx: RunContext) -> Callable[[int], tuple[list[str], list[str]]]:
    """Returns the function that reads the keys and transcripts of one shard."""
    from sslscale.data.alphabet import read_transcripts
    from sslscale.data.index import read_index
    from sslscale.data.shards import open_shard

    index = read_index(data / SPLIT)

    def read(number: int) -> tuple[list[str], list[str]]:
        shard = open_shard(index, number, ctx.local)
        return list(shard.keys), read_transcripts(shard, config.member)

    return read
