"""Pseudo-labels of many samples: whole distributions over the classes, or their most probable classes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SMALL = 16  # up to so many classes, distributions are held whole as float32: 64 bytes a sample at most
_TOP = np.dtype([("class", "<i4"), ("prob", "<f2")])  # of KEY.soft.npy, if it has the most probable classes alone


@dataclass(frozen=True)
class SoftLabels:
    """Distributions over `num_classes` classes.

    `probs` is float32 (rows, num_classes). With `classes`, int16 or int32 (rows, k), it is float16 (rows, k): the
    probabilities of these classes, while the rest of the mass is spread evenly over the others.
    """

    num_classes: int
    probs: np.ndarray
    classes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.probs)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.probs.nbytes + (0 if self.classes is None else self.classes.nbytes)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Whole distributions of these rows, float32 (n, num_classes)."""
        if self.classes is None:
            return self.probs[rows]
        return dense(self.classes[rows], self.probs[rows], self.num_classes)

    def stored(self, row: int) -> np.ndarray:
        """One row as KEY.soft.npy holds it: float32 (num_classes,), or pairs of class and probability (k,)."""
        if self.classes is None:
            return self.probs[row]
        pairs = np.empty(self.classes.shape[1], _TOP)
        pairs["class"], pairs["prob"] = self.classes[row], self.probs[row]
        return pairs


def empty(rows: int, num_classes: int, kept: int) -> SoftLabels:
    """Room for `rows` distributions of which `kept` classes are known each."""
    if kept >= num_classes or num_classes <= SMALL:
        return SoftLabels(num_classes, np.empty((rows, num_classes), np.float32))
    kind = np.int16 if num_classes < 1 << 15 else np.int32
    return SoftLabels(num_classes, np.empty((rows, kept), np.float16), np.empty((rows, kept), kind))


def fill(labels: SoftLabels, place: slice, classes: np.ndarray | None, probs: np.ndarray) -> None:
    """Set some rows; `classes` are those that `probs` (n, k) are of, None for all."""
    if labels.classes is not None:
        assert classes is not None
        labels.classes[place], labels.probs[place] = classes, probs
    else:
        labels.probs[place] = probs if classes is None else dense(classes, probs, labels.num_classes)


def dense(classes: np.ndarray, probs: np.ndarray, num_classes: int) -> np.ndarray:
    """Whole distributions, float32 (n, num_classes), of the probabilities of some classes each."""
    known = np.asarray(probs, np.float32)
    rest = np.clip(1 - known.sum(1, keepdims=True), 0, None) / max(num_classes - known.shape[1], 1)
    full = np.repeat(rest.astype(np.float32), num_classes, axis=1)
    np.put_along_axis(full, classes.astype(np.int64), known, axis=1)
    return full


def read_stored(found: Sequence[np.ndarray], num_classes: int) -> np.ndarray:
    """Whole distributions, float32 (n, num_classes), of what the KEY.soft.npy of some samples hold."""
    whole = []
    for value in found:
        if value.dtype.names is None:
            whole.append(np.asarray(value, np.float32))
        else:
            whole.append(dense(value["class"][None], value["prob"][None], num_classes)[0])
    return np.stack(whole)
