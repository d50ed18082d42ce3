"""The sound of clips as spectrograms: made once, counted, and joined to their clips while training."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sslscale.errors import DataError
from sslscale.graph.artifacts import Dataset, Spectrograms
from sslscale.graph.context import RunContext
from sslscale.graph.dag import cpu_only
from sslscale.settings.sound import SoundConfig

log = logging.getLogger(__name__)


@cpu_only
def spectrograms(ctx: RunContext, config: SoundConfig, *, data: Dataset) -> Spectrograms:
    """Write SPLIT/features-%06d.npy, float16 (clips, mels * times), and SPLIT/usable.npy; done shards are kept.

    Raises DataError for clips without sound, unless they are to be skipped, with their number and the first of them.
    """
    import numpy as np

    from sslscale.cluster.mappers import Mappers
    from sslscale.data.captions import USABLE
    from sslscale.data.features import write_array
    from sslscale.data.index import read_index
    from sslscale.data.sound import EMPTY, MISSING, USED
    from sslscale.storage import jsonio

    splits = tuple(split for split in config.splits if split in data.num_samples)
    if not splits:
        raise DataError(f"{ctx.name}: the data has none of the splits {', '.join(config.splits)}")
    indexes = {split: read_index(data.split(split)) for split in splits}
    if min(index.frames for index in indexes.values()) == 1:
        raise DataError(f"{ctx.name}: the data is no clips of videos: pack a folder of videos with data.video")
    items = [(split, n) for split in splits for n in range(len(indexes[split].shards))]
    waiting = [item for item in items if not _note(ctx.path, item).exists()]
    done = [len(items) - len(waiting)]

    def finished(item: tuple[str, int], clips: int) -> None:
        done[0] += 1
        ctx.progress(done[0], len(items))

    with Mappers(partial(make_reader, data.dir, splits, config), ctx, len(waiting)) as mappers:
        mappers.map(waiting, finished=finished)
    notes = {item: jsonio.read_json(_note(ctx.path, item)) for item in items}
    counts: Counter[str] = Counter()
    for note in notes.values():
        counts.update(note["kinds"])
    skipped, total = counts[MISSING] + counts[EMPTY], sum(counts.values())
    first = next((note["first"] for note in notes.values() if note["first"]), "")
    parts = [
        f"{counts[kind]:,} {words}" for kind, words in ((MISSING, "have no sound"), (EMPTY, "have an empty sound"))
    ]
    line = (
        f"{ctx.name}: of {total:,} clips {' and '.join(p for p in parts if not p.startswith('0 '))} (such as {first})"
    )
    if skipped == total:
        raise DataError(f"{line}: pack the videos with data.video.sound")
    if skipped and config.on_missing == "error":
        raise DataError(f"{line}: leave them out by on_missing: skip")
    if skipped:
        log.warning("%s", line)
    for split in splits:
        kinds = [kind for item, note in notes.items() if item[0] == split for kind in note["kinds"]]
        write_array(ctx.path / split / USABLE, np.array([kind == USED for kind in kinds]))
    clips = {split: data.num_samples[split] // indexes[split].frames for split in splits}
    assert total == sum(clips.values()), (counts, clips)
    return Spectrograms(
        path=str(ctx.path),
        num_clips=clips,
        mels=config.mels,
        accounting=dict(counts),
        metrics={"clips": total - skipped, "skipped": skipped},
    )


def _note(folder: Path, item: tuple[str, int]) -> Path:
    return folder / item[0] / f"sound-{item[1]:06d}.json"


def make_reader(
    data: Path, splits: tuple[str, ...], config: SoundConfig, ctx: RunContext
) -> Callable[[tuple[str, int]], int]:
    """Returns the function that makes the spectrograms of one shard."""
    import numpy as np
    import torch

    from sslscale.data.features import write_array
    from sslscale.data.index import read_index
    from sslscale.data.shards import open_shard
    from sslscale.data.sound import EMPTY, MISSING, USED, read_sounds, spectrogram
    from sslscale.storage import jsonio

    indexes = {split: read_index(data / split) for split in splits}
    torch.set_num_threads(ctx.threads)

    def read(item: tuple[str, int]) -> int:
        split, number = item
        frames = indexes[split].frames
        shard = open_shard(indexes[split], number, ctx.local)
        found = read_sounds(shard, frames)
        times = config.columns * frames
        spectra = np.zeros((len(found), config.mels * times), np.float16)
        kinds = []
        for place, one in enumerate(found):
            kinds.append(MISSING if one is None else USED if len(one[0]) else EMPTY)
            if one is not None and len(one[0]):
                spectra[place] = spectrogram(*one, times, config).half().reshape(-1).numpy()
        write_array(ctx.path / split / f"features-{number:06d}.npy", spectra)
        unusable = [n for n, kind in enumerate(kinds) if kind != USED]
        first = f"{shard.path.name}: {shard.key(unusable[0] * frames)}" if unusable else ""
        jsonio.write_json(_note(ctx.path, item), {"kinds": kinds, "first": first})
        return len(found)

    return read
