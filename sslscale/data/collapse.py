"""Signs that self-training goes wrong: one class takes over, or a teacher says something else than the last one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Watch(NamedTuple):
    """What is watched in one round.

    `entropy` is that of the classes of all pseudo-labels, relative to that of the labelled images' classes (1: as
    varied as these); `largest` the share of the most frequent class, number `which`, and `usual` its share among the
    labelled images; `agreement` the share of images that this teacher and the last one give one class, if there was
    one.
    """

    entropy: float
    which: int
    largest: float
    usual: float
    agreement: float | None = None


def watch(pseudo: np.ndarray, labeled: np.ndarray, same: int | None, total: int) -> Watch:
    """From the numbers of pseudo-labels and of labels by class, int64 (classes,); `same` of `total` images have the
    class that the last teacher gave them."""
    shares = pseudo / max(pseudo.sum(), 1)
    # classes without a label are as likely as the others, as far as is known
    usual = labeled / labeled.sum() if labeled.sum() else np.full(len(pseudo), 1 / len(pseudo))
    which = int(shares.argmax())
    agreement = None if same is None else same / max(total, 1)
    relative = _entropy(shares) / max(_entropy(usual), 1e-12)
    return Watch(relative, which, float(shares[which]), float(usual[which]), agreement)


def _entropy(shares: np.ndarray) -> float:
    return float(-(shares * np.log(np.maximum(shares, 1e-300))).sum())


def why_collapsed(found: Watch, class_name: str, least_entropy: float, least_agreement: float) -> str:
    """What is wrong, in words; empty if nothing is."""
    if found.entropy < least_entropy:
        return (
            f"class {class_name!r} has {100 * found.largest:.0f} % of the pseudo-labels and {100 * found.usual:.0f} % "
            f"of the labels; their entropy is {found.entropy:.2f} of the labels' (select.least_entropy: "
            f"{least_entropy:g})"
        )
    if found.agreement is not None and found.agreement < least_agreement:
        return (
            f"only {100 * found.agreement:.0f} % of the images have the class that the last teacher gave them "
            f"(select.least_agreement: {least_agreement:g})"
        )
    return ""
