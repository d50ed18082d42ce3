"""The index of shards that others wrote: made of what was found in each, and split without a copy.

What was found in a shard is kept in a file of its own, so that an interrupted indexing goes on at the next shard, and
another split of the same shards reads none of them again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sslscale.data import webdatasets
from sslscale.data.examine import Facts, examine, facts_name
from sslscale.data.index import Index, ShardInfo, label_type, write_index
from sslscale.data.limits import SKIPPED, require_few_bad
from sslscale.data.shard import key_digest, map_file, scan
from sslscale.data.sources import HIDDEN
from sslscale.data.webdatasets import Located, locate
from sslscale.errors import DataError
from sslscale.settings.data import PackConfig
from sslscale.storage import mirror
from sslscale.storage.scratch import Local

Examine = Callable[[Sequence[Located], Callable[[Located, Facts], None]], None]  # calls back for every shard
Say = Callable[[str], None]


class Found(NamedTuple):
    """All samples of a source's shards, in their order. `label` is a number in `classes`, -1 for none."""

    shards: list[Located]
    facts: list[Facts]
    classes: tuple[str, ...]
    label: np.ndarray  # int (samples,)
    digest: np.ndarray  # uint64 (samples,)
    usable: np.ndarray  # bool (samples,)
    bad: list[str]  # a line for each image that is not

    @property
    def starts(self) -> np.ndarray:
        """The number of each shard's first sample, int64 (shards + 1,)."""
        return np.cumsum([0, *(len(one.labels) for one in self.facts)])


def index_webdataset(config: PackConfig, folder: Path, parts: Path, run: Examine, say: Say = print) -> dict[str, Index]:
    """Write folder/labeled, unlabeled, val and test: indexes of the shards of `config.source`, which stay in place.

    `run` examines shards, in processes of its choice; `parts` keeps what was found in each. The samples of a split are
    those that `data pack` would choose by the same rules: fractions of each class, the same ones whatever the seed.
    Images that are left out are listed in folder/skipped.txt. Raises DataError for a damaged shard, a key that stands
    in two, or images that cannot be used.
    """
    if config.labels is not None:
        raise DataError(f"{config.source}: labels: the labels of a WebDataset lie in its shards; say where by label:")
    found = _find(config, config.source, parts, run, say)
    if config.prefix_keys:
        found = found._replace(digest=_prefixed(found))
    _require_unique(config.source, found)
    left = found.usable.copy()
    chosen: dict[str, tuple[Found, np.ndarray]] = {}
    for name, share in (("test", config.test), ("val", config.val)):
        if isinstance(share, str):
            chosen[name] = _held(config, name, share, found.classes, parts, run, say)
        elif share:
            held = _of_each_class(found, left & (found.label >= 0), share, name)
            chosen[name], left = (found, held), left & ~held
    labeled = left & (found.label >= 0)
    if config.labels_per_class is not None:
        labeled = _of_each_class(found, labeled, config.labels_per_class, f"label{config.seed}")
        if config.labels_per_class and not labeled.any():
            raise DataError(f"{config.source}: no labelled image to keep labels_per_class={config.labels_per_class} of")
    chosen |= {"labeled": (found, labeled), "unlabeled": (found, left & ~labeled)}
    indexes = {}
    for name, (source, mask) in sorted(chosen.items()):
        if mask.any():
            visible = name != "unlabeled"
            indexes[name] = _write(folder / name, source, mask, found.classes, visible, config)
            if not visible and config.keep_hidden_labels:
                np.save(folder / name / HIDDEN, source.label[mask].astype(np.int32))
    if not indexes:
        raise DataError(f"{config.source}: its shards hold no images")
    bad = dict.fromkeys(line for source, _ in chosen.values() for line in source.bad)
    if bad:
        (folder / SKIPPED).write_text("\n".join(bad) + "\n", "utf-8")
    return indexes


def examine_here(config: PackConfig, local: Local, threads: int) -> Examine:
    """Examine shards in this process, one after another."""

    def run(shards: Sequence[Located], done: Callable[[Located, Facts], None]) -> None:
        with ThreadPoolExecutor(max(threads, 1)) as pool:
            for shard in shards:
                done(shard, examine(shard, config.label, local, pool, config.decoded))

    return run


def _find(config: PackConfig, source: str, parts: Path, run: Examine, say: Say) -> Found:
    """What the shards of a source hold, read now or before."""
    shards = locate(source)
    files = {shard.url: parts / facts_name(shard, config.label, config.decoded) for shard in shards}
    facts = {shard.url: Facts.load(files[shard.url]) for shard in shards}

    def done(shard: Located, one: Facts) -> None:
        one.save(files[shard.url])
        facts[shard.url] = one

    run([shard for shard in shards if facts[shard.url] is None], done)
    every = [one for shard in shards if (one := facts[shard.url]) is not None]
    assert len(every) == len(shards)
    names = {name for one in every for name in one.names}
    numbers = all(name.isdigit() for name in names)
    classes = tuple(sorted(names, key=int if numbers else str))
    place = {name: number for number, name in enumerate(classes)}
    label = np.empty(sum(len(one.labels) for one in every), label_type(len(classes)))
    usable, start = np.ones(len(label), bool), 0
    for one in every:
        stop = start + len(one.labels)
        table = np.array([*(place[name] for name in one.names), -1], label.dtype)  # the last one is the -1 of no label
        label[start:stop] = table[one.labels]
        usable[start + np.array(list(one.bad), np.int64)] = False
        start = stop
    bad = [f"{shard.url}: {why}" for shard, one in zip(shards, every, strict=True) for why in one.bad.values()]
    _tell(source, every, say)
    require_few_bad(config.on_bad_sample, bad, len(label))
    if bad:
        say(f"{len(bad):,} of {len(label):,} images left out; the first: {bad[0]}")
    return Found(shards, every, classes, label, np.concatenate([one.digests for one in every]), usable, bad)


def _tell(source: str, every: Sequence[Facts], say: Say) -> None:
    passed, stats = Counter[str](), Counter[str]()
    for one in every:
        passed.update(one.passed)
        stats.update(one.stats)
    for kind, count in sorted(passed.items()):
        say(f"{source}: passed over: {count:,} {kind}")
    if stats:
        say(f"{source}: img2dataset's statistics: " + ", ".join(f"{stats[name]:,} {name}" for name in sorted(stats)))


def _prefixed(found: Found) -> np.ndarray:
    """Digests of keys that have the name of their shard before them: unique, since the names of shards are."""
    salt = [np.uint64(key_digest(name.encode())) for name in file_names(found.shards)]
    return found.digest ^ np.repeat(np.array(salt, np.uint64), np.diff(found.starts))


def file_names(shards: Sequence[Located]) -> list[str]:
    """A name for each shard of a set: its file's, or with a number where two have the same."""
    count = Counter(shard.name for shard in shards)
    return [shard.name if count[shard.name] == 1 else f"{n:06d}-{shard.name}" for n, shard in enumerate(shards)]


def _require_unique(source: str, found: Found) -> None:
    order = np.argsort(found.digest, kind="stable")
    ranked = found.digest[order]
    twice = np.flatnonzero(ranked[1:] == ranked[:-1])
    if not len(twice):
        return
    first, second = (int(x) for x in order[twice[0] : twice[0] + 2])
    shards = np.searchsorted(found.starts, [first, second], side="right") - 1
    one, two = (found.shards[int(number)].url for number in shards)
    row = second - int(found.starts[shards[1]])
    key = f"row {row}"
    if not mirror.is_url(two):
        key = f"the key {scan(Path(two), map_file(Path(two))[1], lenient=True).key(row)!r}"
    raise DataError(
        f"{source}: {two}: {key} stands in {one} too, as do {len(twice) - 1:,} more; if these are different images, "
        "set prefix_keys: true"
    )


def _held(
    config: PackConfig, name: str, share: str, classes: tuple[str, ...], parts: Path, run: Examine, say: Say
) -> tuple[Found, np.ndarray]:
    """The samples of a split that has shards of its own."""
    if not share.startswith(webdatasets.PREFIX):
        raise DataError(f"{name}: {share}: beside a WebDataset, give webdataset:SHARDS or a fraction")
    held = _find(config, share, parts, run, say)
    unknown = sorted(set(held.classes) - set(classes))
    if unknown:
        raise DataError(f"{share}: the class {unknown[0]!r} is not a class of {config.source}")
    if (held.label < 0).any():
        raise DataError(f"{share}: {int((held.label < 0).sum()):,} images have no class; {name} images need labels")
    table = np.array([classes.index(known) for known in held.classes], label_type(len(classes)))
    return held._replace(label=table[held.label], classes=classes), held.usable


def _of_each_class(found: Found, among: np.ndarray, share: float | int, salt: str) -> np.ndarray:
    """Of each class a fraction (at least one), or so many samples: those whose salted key hashes lowest."""
    rank = _mixed(found.digest ^ np.uint64(key_digest(salt.encode())))
    chosen = np.zeros(len(among), bool)
    rows = np.flatnonzero(among)
    order = rows[np.lexsort((rank[rows], found.label[rows]))]
    counts = np.bincount(found.label[rows], minlength=len(found.classes))
    start = 0
    for name, count in zip(found.classes, counts.tolist(), strict=True):
        if isinstance(share, int) and count < share:
            raise DataError(f"class {name!r} has {count} images, fewer than labels_per_class={share}")
        wanted = share if isinstance(share, int) else min(max(round(count * share), 1), count)
        chosen[order[start : start + wanted]] = True
        start += count
    return chosen


def _mixed(values: np.ndarray) -> np.ndarray:
    """Spread 64 bits over each other (the finaliser of SplitMix64)."""
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _write(
    folder: Path, found: Found, mask: np.ndarray, classes: tuple[str, ...], visible: bool, config: PackConfig
) -> Index:
    """The index of the chosen samples."""
    folder.mkdir(parents=True, exist_ok=True)
    infos, rows, whole = [], [], True
    names, starts = file_names(found.shards), found.starts
    for number, (shard, facts) in enumerate(zip(found.shards, found.facts, strict=True)):
        mine = np.flatnonzero(mask[starts[number] : starts[number + 1]]).astype(np.int32)
        if not len(mine):
            continue
        images = 0 if len(mine) == len(facts.labels) else len(facts.labels)
        whole &= images == 0
        rows.append(mine)
        infos.append(ShardInfo(names[number], len(mine), facts.bytes, facts.sha256, facts.shape, shard.url, images))
    labels = found.label[mask] if visible else np.full(int(mask.sum()), -1, np.int8)
    every = None if whole else np.concatenate(rows)
    return write_index(folder, infos, classes, labels, every, prefixed=config.prefix_keys, pixels=config.decoded)
