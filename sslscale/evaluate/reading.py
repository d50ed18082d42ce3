"""How well lines of text are read: character and word error rates, exact lines, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sslscale.evaluate.classify import wilson


def edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """The least number of insertions, deletions and replacements that make one sequence the other (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def measure_reading(
    said: Sequence[str], true: Sequence[str], *, ignore_case: bool, resamples: int, seed: int
) -> dict[str, Any]:
    """CER and WER (edit distances over the transcripts' characters and words, both summed over the lines), 1 - NED (the
    mean of 1 - distance / the longer of both), the share of exact lines; 95 % intervals, by bootstrap or Wilson's."""
    if ignore_case:
        said, true = [x.casefold() for x in said], [x.casefold() for x in true]
    chars = np.array([edit_distance(x, y) for x, y in zip(said, true, strict=True)])
    words = np.array([edit_distance(x.split(), y.split()) for x, y in zip(said, true, strict=True)])
    num_chars, num_words = np.array([len(x) for x in true]), np.array([len(x.split()) for x in true])
    longer = np.array([max(len(x), len(y), 1) for x, y in zip(said, true, strict=True)])
    exact = float((chars == 0).mean())
    rng = np.random.default_rng([seed, 0x0C2])
    drawn = rng.integers(0, len(true), (resamples, len(true)))

    def rate(errors: np.ndarray, total: np.ndarray) -> tuple[float, tuple[float, float]]:
        rates = errors[drawn].sum(1) / np.maximum(total[drawn].sum(1), 1)
        low, high = np.percentile(rates, [2.5, 97.5])
        return float(errors.sum() / max(total.sum(), 1)), (float(low), float(high))

    cer, cer_interval = rate(chars, num_chars)
    wer, wer_interval = rate(words, num_words)
    return {
        "lines": len(true),
        "characters": int(num_chars.sum()),
        "cer": cer,
        "cer_interval": cer_interval,
        "wer": wer,
        "wer_interval": wer_interval,
        "one_minus_ned": float(1 - (chars / longer).mean()),
        "exact": exact,
        "exact_interval": wilson(exact, len(true)),
        "distances": chars.tolist(),
    }
