"""Means of what a training reports between two logs: summed on the device, and read only when they are logged."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.data.stream import Stream
from sslscale.train.engine import Engine

# sums that are divided by one another, not by the number of steps: a share of shares would favour steps that keep few
_CORRECT, _KNOWN = "_correct_weight", "_known_weight"
_SKIPPED, _ALL_SKIPPED = "_skipped", "_all_skipped"


class Meter:
    """Collects the parts of the loss, step by step."""

    def __init__(self, engine: Engine, streams: Mapping[str, Stream]):
        self._engine = engine
        hidden = streams["unlabeled"].samples.hidden if "unlabeled" in streams else None
        self._truth = None if hidden is None else torch.from_numpy(hidden).to(engine.device)
        self.skipped_steps = 0.0  # since the start, as of the last `means`
        self.reset()

    def reset(self) -> None:
        """Begin a new interval."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}  # steps that had each part: not all have, where tasks take turns
        self._skipped_before = self._engine.skipped.clone()

    def add(self, parts: Mapping[str, Tensor], batch: Mapping[str, Batch]) -> None:
        """Take up one step's parts, and how many of its pseudo-labels are right where the truth is known."""
        parts = dict(parts)
        found = self._engine.pseudo_labels
        if self._truth is not None and found is not None:
            label = self._truth[batch["unlabeled"].index]
            known = found.weight * (label >= 0)
            parts |= {_CORRECT: (known * (found.label == label)).sum(), _KNOWN: known.sum()}
        for name, value in parts.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """The means over this interval and all workers, which all call this. Skipped steps do not count."""
        skipped = self._engine.skipped - self._skipped_before
        means = distributed.mean_scalars({**self._sums, _SKIPPED: skipped, _ALL_SKIPPED: self._engine.skipped})
        skipped_now, self.skipped_steps = means.pop(_SKIPPED), means.pop(_ALL_SKIPPED)
        allowed = self._engine.config.max_skipped_steps
        skipped_files = round(skipped_now) if allowed and self.skipped_steps <= allowed else 0
        means = {name: value / max(self._counts[name] - skipped_files, 1) for name, value in means.items()}
        if _CORRECT in means:
            correct, known = means.pop(_CORRECT), means.pop(_KNOWN)
            means |= {"pseudo_label_accuracy": correct / known} if known else {}
        return means
