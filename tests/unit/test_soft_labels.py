"""Pseudo-labels in memory: what is kept of them, and that a batch's are whole and the same however they are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sslscale.data import soft_labels
from sslscale.data.index import read_index
from sslscale.data.samples import open_samples
from sslscale.data.selection import open_selected
from sslscale.data.write import write_shards
from sslscale.errors import DataError
from sslscale.graph.artifacts import Dataset, Scores, Selection
from sslscale.graph.context import RunContext
from sslscale.settings.pseudo import ScoreConfig, SelectConfig
from sslscale.stages.score import write_scores
from sslscale.stages.select import select
from sslscale.stages.shard import ShardConfig, shard

Make = Callable[..., RunContext]


def literal(classes: list[int], probs: list[float], num_classes: int) -> list[float]:
    """One image's distribution, by hand: the rest of the mass spread evenly over the classes that were not kept."""
    rest = max(1 - sum(probs), 0) / (num_classes - len(classes))
    whole = [rest] * num_classes
    for number, value in zip(classes, probs, strict=True):
        whole[number] = value
    return whole


@pytest.mark.parametrize(("num_classes", "kept"), [(1000, 10), (40_000, 3), (12, 4), (50, 50)])
def test_rows_come_back_whole(num_classes: int, kept: int) -> None:
    rng = np.random.default_rng(0)
    probs = -np.sort(-rng.dirichlet(np.full(num_classes, 0.02), 20).astype(np.float32), 1)[:, :kept]
    probs = probs.astype(np.float16)
    classes = np.stack([rng.permutation(num_classes)[:kept] for _ in range(20)])
    labels = soft_labels.empty(20, num_classes, kept)
    soft_labels.fill(labels, slice(0, 20), None if kept == num_classes else classes, probs)
    if kept == num_classes:
        expected = probs.astype(np.float64)
    else:
        expected = np.array([literal(c, p, num_classes) for c, p in zip(classes.tolist(), probs.tolist(), strict=True)])
    rows = np.array([3, 3, 19, 0])
    found = labels.take(rows)
    assert found.dtype == np.float32 and np.abs(found - expected[rows]).max() < 1e-6
    stored = soft_labels.read_stored([labels.stored(int(row)) for row in rows], num_classes)
    assert (stored == found).all()
    small = num_classes <= soft_labels.SMALL
    assert labels.nbytes / 20 == (
        4 * num_classes if small or kept == num_classes else kept * (4 if num_classes < 32768 else 6)
    )


def test_a_thousand_classes_take_less_than_64_bytes() -> None:
    labels = soft_labels.empty(100, 1000, ScoreConfig().kept(1000))
    entry_order_and_copies = 4 + 8 + 1
    assert labels.nbytes / 100 + entry_order_and_copies < 64
    assert [ScoreConfig(top_k=k).kept(1000) for k in (None, 0, 5, 2000)] == [10, 1000, 5, 1000]
    assert ScoreConfig().kept(10) == 10 and ScoreConfig().kept(100) == 100


@pytest.mark.parametrize(("num_classes", "top_k"), [(10, 0), (10, 3), (300, None), (300, 0)])
def test_joined_and_written_pseudo_labels_are_the_same(
    num_classes: int, top_k: int | None, digits: Path, tmp_path: Path, context: Make
) -> None:
    """Read time's join and the shards that the shard stage writes: order, keys, labels, bit for bit."""
    source = open_samples(digits / "unlabeled", labels=False)
    some = [source.shards[s].sample(r) for s, r in zip(*(x[::9].tolist() for x in source.places()), strict=True)]
    names = [f"c{n}" for n in range(num_classes)]
    write_shards(tmp_path / "data" / "unlabeled", "unlabeled", some, names, 40)
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(num_classes, 0.05), len(some)).astype(np.float32)
    scores = context("scores")
    for number, info in enumerate(read_index(tmp_path / "data" / "unlabeled").shards):
        own = [sample.key for sample in some[40 * number : 40 * number + info.samples]]
        kept = ScoreConfig(top_k=top_k).kept(num_classes)
        write_scores(scores.path / f"scores-{number:06d}.parquet", own, probs[40 * number :][: info.samples], kept)
    data = Dataset(path=str(tmp_path / "data"), num_samples={"unlabeled": len(some)}, classes=tuple(names))
    config = SelectConfig(threshold=0.2, on_empty_class="warn", shard_size=30, per_class=max(60 // num_classes, 1))
    made = Scores(path=str(scores.path), num_samples=len(some))
    chosen = select(context("select"), config, scores=made, data=data)
    joined = open_selected(chosen.dir, data.split("unlabeled"), seed=chosen.seed, shard_size=30)
    written = open_samples(shard(context("shard"), ShardConfig(), selection=chosen, data=data).dir)
    assert len(joined) == len(written) == chosen.num_samples
    numbers = np.arange(len(joined))
    assert (joined.field("soft_label", numbers) == written.field("soft_label", numbers)).all()
    assert [joined.key(n) for n in numbers.tolist()] == [written.key(n) for n in numbers.tolist()]
    assert list(joined.block_sizes) == list(written.block_sizes)
    assert (written.labels == joined.field("soft_label", numbers).argmax(1)).all()
    by_key = dict(zip((sample.key for sample in some), probs, strict=True))
    for n in range(0, len(joined), 7):
        own = by_key[joined.key(n).partition("-copy")[0]]
        assert joined.field("soft_label", np.array([n]))[0].argmax() == own.argmax()
    refuse_other_images(chosen, digits)


def refuse_other_images(chosen: Selection, digits: Path) -> None:
    with pytest.raises(DataError, match="is a selection of other images than those of"):
        open_selected(chosen.dir, digits / "unlabeled", seed=0, shard_size=30)
