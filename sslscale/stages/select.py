"""Choose the pseudo-labelled images a student learns from, by the score tables alone."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

from sslscale.errors import DataError
from sslscale.graph.artifacts import Dataset, Scores, Selection
from sslscale.graph.context import RunContext
from sslscale.graph.dag import cpu_only
from sslscale.settings.pseudo import SelectConfig
from sslscale.storage.jsonio import write_json

HISTOGRAM_BINS = 50
log = logging.getLogger(__name__)


@cpu_only
def select(
    ctx: RunContext, config: SelectConfig, *, scores: Scores, data: Dataset, earlier: Scores | None = None
) -> Selection:
    """Apply the confidence threshold and balance the classes.

    `earlier` are the scores of the round before, with which this round's are compared. Writes selection-%06d.parquet
    beside the scores of each shard (row, key, label, confidence, copies, probs) and stats.json. Raises DataError if a
    class is left without images, unless `on_empty_class` is `warn`, and for a collapse if `on_collapse` is `error`.
    """
    import numpy as np

    from sslscale.data import parquet
    from sslscale.data.balance import Chunk, decide
    from sslscale.data.selection import SOURCE, source_of
    from sslscale.report.figures import selection_figures

    files = sorted(scores.dir.glob("scores-*.parquet"))
    said = _watch(ctx, config, files, data, earlier)
    num_classes = len(data.classes)

    def read(number: int, table: Any) -> Chunk:
        return Chunk(
            number,
            table["label"].to_numpy().astype(np.int64),
            table["confidence"].to_numpy(),
        )

    def chunks() -> Iterator[Chunk]:
        for number, file in enumerate(files):
            yield read(
                number,
                parquet.read(file, ["label", "confidence"]),
            )

    decision = decide(chunks, num_classes, config)
    empty = [name for name, count in zip(data.classes, decision.above, strict=True) if count == 0]
    if empty and config.on_empty_class == "error":
        raise DataError(
            f"{ctx.name}: no pseudo-label of class {', '.join(map(repr, empty[:5]))} reaches the threshold of "
            f"{config.threshold}; lower select.threshold, train the teacher longer, or set select.on_empty_class: warn"
        )
    accounting = Counter({"samples": 0, "used": 0, "below_threshold": 0, "balanced_out": 0})
    before, after = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    histogram = np.zeros(HISTOGRAM_BINS, np.int64)
    for number, file in enumerate(files):
        light = parquet.read(file, ["label", "confidence"])
        chunk = read(number, light)
        copies = decision.copies(chunk)
        above = chunk.confidence >= config.threshold
        accounting.update(
            samples=len(copies),
            used=int((copies > 0).sum()),
            below_threshold=int((~above).sum()),
            balanced_out=int((above & (copies == 0)).sum()),
        )
        before += np.bincount(chunk.label[above], minlength=num_classes)
        after += np.bincount(chunk.label, weights=copies, minlength=num_classes).astype(np.int64)
        histogram += np.histogram(chunk.confidence, HISTOGRAM_BINS, (0.0, 1.0))[0]
        _write(ctx, number, file, copies)
        ctx.progress(number + 1, len(files))
    counts = dict(accounting)
    assert counts["samples"] == sum(count for name, count in counts.items() if name != "samples"), counts
    total = int(after.sum())
    if total == 0:
        raise DataError(f"{ctx.name}: no image reaches the threshold of {config.threshold}; lower select.threshold")
    write_json(
        ctx.path / "stats.json",
        {
            "accounting": counts,
            SOURCE: source_of(data.split("unlabeled")),
            "classes": list(data.classes),
            "per_class": decision.per_class,
            "before": before.tolist(),
            "after": after.tolist(),
            "thresholds": decision.thresholds.tolist(),
            "histogram": histogram.tolist(),
            "threshold": config.threshold,
            "watch": said._asdict(),
        },
    )
    selection_figures(ctx.path)
    metrics: dict[str, float] = {"selected": total, "kept_fraction": accounting["used"] / max(accounting["samples"], 1)}
    if empty:
        metrics["empty_classes"] = len(empty)
    metrics["relative_entropy"] = said.entropy
    if said.agreement is not None:
        metrics["agreement"] = said.agreement
    return Selection(
        path=str(ctx.path),
        num_samples=total,
        accounting=counts,
        shard_size=config.shard_size,
        seed=config.seed,
        metrics=metrics,
    )


def _watch(ctx: RunContext, config: SelectConfig, files: list[Any], data: Dataset, earlier: Scores | None) -> Any:
    """Look for a collapse of the pseudo-labels; raises DataError if it is to be an error."""
    import numpy as np

    from sslscale.data import parquet
    from sslscale.data.collapse import watch, why_collapsed
    from sslscale.data.index import read_index

    counts, same, total = np.zeros(len(data.classes), np.int64), None, 0
    before = None if earlier is None else sorted(earlier.dir.glob("scores-*.parquet"))
    for number, file in enumerate(files):
        labels = parquet.read(file, ["label"])["label"].to_numpy()
        counts += np.bincount(labels, minlength=len(counts))
        total += len(labels)
        if before is not None:
            old = parquet.read(before[number], ["label"])["label"].to_numpy()
            same = (same or 0) + int((old == labels).sum())
    known = np.zeros(0, np.int64)
    if "labeled" in data.num_samples and (index := read_index(data.split("labeled"))).has_labels:
        known = np.asarray(index.labels, np.int64)
    found = watch(counts, np.bincount(known[known >= 0], minlength=len(counts)), same, total)
    wrong = why_collapsed(found, data.classes[found.which], config.least_entropy, config.least_agreement)
    if wrong and config.on_collapse == "error":
        raise DataError(
            f"{ctx.name}: the pseudo-labels collapse: {wrong}; the teacher of this round is the last result: raise "
            "select.threshold, balance its labels, or go on by select.on_collapse: warn"
        )
    if wrong and config.on_collapse == "warn":
        log.warning("the pseudo-labels may be collapsing: %s", wrong)
    return found


def _write(ctx: RunContext, number: int, file: Any, copies: Any) -> None:
    import numpy as np
    import pyarrow as pa

    from sslscale.data import parquet

    rows = np.flatnonzero(copies)
    columns = ["key", "label", "confidence", "probs", *(n for n in parquet.names(file) if n == "classes")]
    kept = parquet.read(file, columns).take(pa.array(rows)).combine_chunks()
    kept = kept.append_column("row", pa.array(rows.astype(np.int32)))
    kept = kept.append_column("copies", pa.array(copies[rows]))
    parquet.write(ctx.path / f"selection-{number:06d}.parquet", kept)
