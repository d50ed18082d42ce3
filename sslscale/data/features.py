"""Features of the images of shards, and what was made of them: one float16 or int32 file beside each shard.

FOLDER/SPLIT/features-%06d.npy is float16 (samples, dim), FOLDER/SPLIT/clusters-%06d.npy is int32 (samples,), -1 for an
image that no cluster has.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from sslscale.errors import DataError, ResourceError
from sslscale.storage import jsonio, sums

_OPEN = 64  # files mapped at a time


class Features:
    """Rows of many files, mapped as they are needed: memory does not grow with their number."""

    def __init__(self, folder: Path, splits: Sequence[str]):
        self.files = [file for split in splits for file in sorted((folder / split).glob("features-*.npy"))]
        if not self.files:
            raise DataError(f"{folder}: has no features of {', '.join(splits)}")
        self.shapes = [_open(file).shape for file in self.files]  # the contents are checked when they are used
        self.dim = self.shapes[0][1]
        self._cached = lru_cache(_OPEN)(self._map)

    def __len__(self) -> int:
        return sum(rows for rows, _ in self.shapes)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_cached"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._cached = lru_cache(_OPEN)(self._map)

    def _map(self, number: int) -> np.ndarray:
        return _open(sums.checked(self.files[number]))

    def file(self, number: int) -> np.ndarray:
        """All rows of one file, float16 (samples, dim), mapped, not read."""
        return self._map(number)

    def take(self, shard: np.ndarray, row: np.ndarray) -> np.ndarray:
        """These rows as float32 (n, dim)."""
        found = np.empty((len(shard), self.dim), np.float32)
        for number in np.unique(shard):
            mine = shard == number
            found[mine] = self._cached(int(number))[row[mine]]
        return found

    def read(self) -> np.ndarray:
        """All rows as float32: for the thousands that a probe learns from, not for the millions."""
        return np.concatenate([np.asarray(self.file(n), np.float32) for n in range(len(self.files))])


def _open(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: unreadable features ({error})") from None


def write_array(file: Path, values: np.ndarray) -> None:
    """Write one array in one rename; raises ResourceError on a full disk."""
    data = io.BytesIO()
    np.save(data, values, allow_pickle=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        jsonio.write_bytes(file, data.getvalue())
    except OSError as error:
        raise ResourceError(f"{file}: cannot write {values.nbytes:,} bytes: {error.strerror}") from error


def read_clusters(folder: Path, splits: Sequence[str]) -> np.ndarray:
    """The cluster of every image, int32, in the shards' order."""
    files = [file for split in splits for file in sorted((folder / split).glob("clusters-*.npy"))]
    return np.concatenate([np.load(sums.checked(file), allow_pickle=False) for file in files])
