"""Balancing against brute force: a sort of all rows, and the authors' loops written out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sslscale.data.balance import Chunk, confidence_bin, decide
from sslscale.settings.pseudo import SelectConfig

K = 6


def rows(seed: int = 0, num: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.choice(K, num, p=[0.5, 0.2, 0.15, 0.1, 0.04, 0.01]).astype(np.int64)
    confidence = np.clip(1 - rng.exponential(0.3, num), 0.17, 1).astype(np.float32)
    confidence[rng.random(num) < 0.2] = 1.0  # ties, as an overconfident teacher makes them
    confidence[:50] = np.float32(0.3)
    return label, confidence


def chunked(label: np.ndarray, confidence: np.ndarray, size: int) -> Any:
    def chunks() -> Iterator[Chunk]:
        for number, start in enumerate(range(0, len(label), size)):
            part = slice(start, start + size)
            yield Chunk(number, label[part], confidence[part])

    return chunks


def copies(config: SelectConfig, data: tuple[np.ndarray, np.ndarray], size: int = 300) -> np.ndarray:
    chunks = chunked(*data, size)
    decision = decide(chunks, K, config)
    return np.concatenate([decision.copies(chunk) for chunk in chunks()])


@pytest.mark.parametrize("target", [1, 7, 100, 500, 3000])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_papers_rule_is_top_k_with_repeats(target: int, seed: int) -> None:
    label, confidence = data = rows(seed)
    found = copies(SelectConfig(per_class=target, seed=seed), data)
    above = confidence >= np.float32(0.3)
    assert (found[~above] == 0).all()
    for k in range(K):
        mine = np.flatnonzero(above & (label == k))
        order = np.sort(confidence[mine])[::-1]
        expected = [order[i % len(order)] for i in range(target)]  # from the top, again and again
        got = np.repeat(confidence[mine], found[mine])
        assert sorted(got) == sorted(expected)
        assert found[mine].max() - found[mine].min() <= 1


def literal_code(label: np.ndarray, confidence: np.ndarray, target: int) -> dict[int, tuple]:
    """filter_unlabel.py, get_threshold and get_keep_image_idx, one image at a time: class -> threshold, count."""
    chosen = {}
    for k in range(K):
        probs = [float(p) for p, c in zip(confidence, label, strict=True) if c == k]
        counts = [0] * 101
        for p in probs:
            for j in reversed(range(101)):
                if p >= j / 100 - 1e-7:
                    counts[j] += 1
                    break
        total = 0
        for i in range(100, -1, -1):
            if i / 100 >= 0.3:
                total += counts[i]
                if total >= target or i == 30:
                    chosen[k] = (i / 100, total)
                    break
    return chosen


@pytest.mark.parametrize("target", [7, 100, 500, 3000])
def test_the_codes_rule_is_the_authors_loops(target: int) -> None:
    label, confidence = data = rows()
    found = copies(SelectConfig(balance="code", per_class=target), data)
    for k, (threshold, count) in literal_code(*data, target).items():
        mine = label == k
        kept = mine & (confidence >= threshold - 1e-6)
        assert kept.sum() == count
        assert (found[mine & ~kept] == 0).all()
        share = target / count
        assert set(np.unique(found[kept])) <= {math.floor(share), math.ceil(share)}
        spread = math.sqrt(count * (share % 1) * (1 - share % 1))
        assert abs(found[kept].sum() - target) <= 5 * spread + 1e-9


def test_without_balance_each_confident_image_counts_once() -> None:
    _, confidence = data = rows()
    found = copies(SelectConfig(balance="none", threshold=0.5), data)
    assert (found == (confidence >= 0.5)).all()


@pytest.mark.parametrize("balance", ["paper", "code", "none"])
def test_selection_is_deterministic_by_seed(balance: Any) -> None:
    data = rows()
    one = copies(SelectConfig(balance=balance, per_class=333), data)
    assert (one == copies(SelectConfig(balance=balance, per_class=333), data)).all()
    other = copies(SelectConfig(balance=balance, per_class=333, seed=9), data)
    assert (one == other).all() == (balance == "none")


def test_the_default_target_is_the_mean_of_the_classes() -> None:
    label, confidence = data = rows()
    decision = decide(chunked(*data, 500), K, SelectConfig())
    assert decision.per_class == round((confidence >= np.float32(0.3)).sum() / K)
    assert decision.above.sum() == (confidence >= np.float32(0.3)).sum()
    assert label.max() < K


def test_bins_rise_with_confidence() -> None:
    values = np.sort(np.random.default_rng(0).random(10_000).astype(np.float32))
    assert (np.diff(confidence_bin(np.append(values, [1.0]))) >= 0).all()
    assert confidence_bin(np.array([1.0])) > confidence_bin(np.array([np.nextafter(np.float32(1), np.float32(0))]))
