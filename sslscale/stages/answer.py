"""An oracle: the hidden labels of suggested images, for experiments in active learning."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field

from sslscale.errors import DataError
from sslscale.graph.artifacts import Dataset, Suggestions
from sslscale.graph.context import RunContext
from sslscale.graph.dag import cpu_only


@dataclass(frozen=True, kw_only=True)
class AnswerConfig:
    """Nothing can be set."""

    version: int = field(default=1, init=False)


@cpu_only
def answer(ctx: RunContext, config: AnswerConfig, *, data: Dataset, suggestions: Suggestions) -> Dataset:
    """The same images, of which the suggested ones are labelled now. Raises DataError without hidden labels."""
    import numpy as np

    from sslscale.data.answers import relabel
    from sslscale.data.sources import HIDDEN, SPLITS
    from sslscale.storage import sums

    del config
    file = data.split("unlabeled") / HIDDEN
    if not file.is_file():
        raise DataError(f"{ctx.name}: the labels of the images are not known: pack them with keep_hidden_labels")
    hidden = np.load(file, allow_pickle=False)
    chosen = np.load(sums.checked(suggestions.dir / "numbers.npy"), allow_pickle=False)
    for split in SPLITS:  # of an attempt that was stopped
        old = ctx.path / split
        old.unlink() if old.is_symlink() else shutil.rmtree(old, ignore_errors=True)
    labels = {int(n): int(hidden[n]) for n in chosen}
    indexes = relabel(data.dir, ctx.path, labels, data.classes)
    counts = {name: index.num_samples for name, index in indexes.items()}
    metrics = {f"{name}_images": count for name, count in counts.items()}
    return Dataset(path=str(ctx.path), num_samples=counts, classes=data.classes, metrics=metrics)
