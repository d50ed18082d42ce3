"""The index of a set of shards: where each lies, how many samples and bytes it has, its checksum; and the labels.

index.json describes the shards. Beside it lies labels.npy, the class of every sample in the shards' order (-1: none),
and, where a set takes only some samples of its shards, rows.npy with their places. So a training knows its samples
without opening a shard.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sslscale.errors import DataError, ResourceError
from sslscale.settings.pixels import RGB, PixelConfig
from sslscale.storage import jsonio, sums

INDEX, LABELS, ROWS = "index.json", "labels.npy", "rows.npy"
FORMAT = "sslscale-shards/3"
_OLDER = ("sslscale-shards/1", "sslscale-shards/2")  # before the index had a sum of its own, and before it had labels


class ShardInfo(NamedTuple):
    """What the index says of one shard."""

    file: str  # its name in the set
    samples: int  # of this set
    bytes: int
    sha256: str
    shape: tuple[int, int] | None = None  # height and width of all its images, if they have one size
    url: str = ""  # where it lies, a path or a URL, if that is not the set's own folder
    images: int = 0  # in the shard, where the set takes only some of them; else 0


@dataclass(frozen=True)
class Index:
    """The index of a folder of shards.

    `soft` says that every sample has a pseudo-label in its shard. `prefixed` keys have the name of their shard before
    them. With `frames` above 1 so many samples after one another are a clip of a video. `sums` are the SHA-256 of the
    arrays beside the index; without labels.npy the shards must be read for the labels. `parts` are the indexes that
    this one joins. `pixels` are what every image can be decoded to.
    """

    folder: Path
    shards: tuple[ShardInfo, ...]
    classes: tuple[str, ...]
    soft: bool = False
    prefixed: bool = False
    frames: int = 1
    sums: Mapping[str, str] = dataclasses.field(default_factory=dict)
    parts: tuple[Index, ...] = ()
    pixels: PixelConfig = RGB

    @property
    def num_samples(self) -> int:
        """Samples in all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def has_labels(self) -> bool:
        """Whether the labels can be known without opening the shards."""
        return all(part.has_labels for part in self.parts) if self.parts else LABELS in self.sums

    @cached_property
    def starts(self) -> np.ndarray:
        """The number of each shard's first sample, int64 (shards + 1,)."""
        return np.cumsum([0, *(shard.samples for shard in self.shards)])

    @cached_property
    def labels(self) -> np.ndarray:
        """The class of every sample, -1 for none: int8, int16 or int32 (samples,)."""
        if self.parts:
            return np.concatenate([part.labels for part in self.parts])
        return self._array(LABELS)

    def rows(self, number: int) -> np.ndarray | None:
        """The rows of one shard that belong to the set, int32; None if all do."""
        for part in self.parts:
            if number < len(part.shards):
                return part.rows(number)
            number -= len(part.shards)
        return None if self._rows is None else self._rows[self.starts[number] : self.starts[number + 1]]

    def only(self, number: int) -> Index:
        """The index of one of its shards alone, without labels."""
        alone = dataclasses.replace(self, shards=(self.shards[number],), sums={}, parts=())
        alone.__dict__["_rows"] = self.rows(number)
        return alone

    @cached_property
    def _rows(self) -> np.ndarray | None:
        return self._array(ROWS) if ROWS in self.sums else None

    def _array(self, name: str) -> np.ndarray:
        file = self.folder / name
        try:
            if sums.sha256(file) != self.sums[name]:
                raise DataError(
                    f"{file}: its SHA-256 is not the one in {INDEX}: changed or damaged; index the set again"
                )
            found = np.load(file, mmap_mode="r" if name == ROWS else None, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: unreadable ({error}); index the set again") from None
        if found.shape != (self.num_samples,):
            raise DataError(f"{file}: has {len(found):,} entries for {self.num_samples:,} samples; index the set again")
        return found


def joined(folder: Path, indexes: Sequence[Index]) -> Index:
    """Several splits of one data set as one set."""
    if len(indexes) == 1:
        return indexes[0]
    infos = [info._replace(file=f"{index.folder.name}/{info.file}") for index in indexes for info in index.shards]
    return Index(
        folder,
        tuple(infos),
        indexes[0].classes,
        soft=all(index.soft for index in indexes),
        prefixed=any(index.prefixed for index in indexes),
        frames=indexes[0].frames,
        parts=tuple(indexes),
        pixels=indexes[0].pixels,
    )


def read_index(folder: str | Path) -> Index:
    """Read a folder's index.json; raises DataError if it is not there or not ours."""
    folder = Path(folder)
    try:
        data = jsonio.read_json(sums.checked(folder / INDEX))
        if data["format"] != _OLDER[0] or jsonio.SUM in data:
            data = jsonio.unsealed(data)
        if data["format"] not in (FORMAT, *_OLDER):
            raise DataError(f"{folder / INDEX}: format {data['format']!r} is not {FORMAT!r}")
        shards = tuple(shard_info(shard) for shard in data["shards"])
        if any(Path(shard.file).name != shard.file for shard in shards):
            raise DataError(f"{folder / INDEX}: a shard lies outside its folder")
        classes, arrays = tuple(data["classes"]), dict(data.get("arrays", {}))
        soft, prefixed, frames = bool(data.get("soft")), bool(data.get("prefixed")), int(data.get("frames", 1))
        return Index(folder, shards, classes, soft, prefixed, frames, arrays, pixels=_pixels(data.get("pixels")))
    except FileNotFoundError:
        raise DataError(
            f"{folder}: no {INDEX} there; make shards with `sslscale data pack SRC {folder}`, or index those that are "
            "there with `sslscale data index SHARDS OUT`"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / INDEX}: unreadable index ({error})") from None


def shard_info(shard: Mapping[str, Any]) -> ShardInfo:
    """What JSON says of a shard; raises TypeError for a field that there is not."""
    shape = shard.get("shape")
    return ShardInfo(**{**shard, "shape": None if shape is None else (int(shape[0]), int(shape[1]))})


def write_index(
    folder: Path,
    shards: Iterable[ShardInfo],
    classes: Iterable[str],
    labels: np.ndarray | None = None,
    rows: np.ndarray | None = None,
    *,
    soft: bool = False,
    prefixed: bool = False,
    frames: int = 1,
    pixels: PixelConfig = RGB,
) -> Index:
    """Write the arrays, then index.json, which makes the shards a finished set.

    `labels` are the classes of all samples, int (samples,), -1 for none; None leaves them to be read from the shards.
    `rows` are the samples' places in their shards, for a set that does not take all of them.
    """
    shards, classes = tuple(shards), tuple(classes)
    arrays = {}
    if labels is not None:
        arrays[LABELS] = _save(folder / LABELS, np.asarray(labels, label_type(len(classes))))
    if rows is not None:
        arrays[ROWS] = _save(folder / ROWS, np.asarray(rows, np.int32))
    index = Index(folder, shards, classes, soft, prefixed, frames, arrays, pixels=pixels)
    jsonio.write_json(
        folder / INDEX,
        jsonio.sealed(
            {
                "format": FORMAT,
                "num_samples": index.num_samples,
                "classes": list(classes),
                "soft": soft,
                "prefixed": prefixed,
                **({"frames": frames} if frames > 1 else {}),
                **({"pixels": dataclasses.asdict(pixels)} if pixels != RGB else {}),
                "arrays": arrays,
                "shards": [_as_json(shard) for shard in shards],
            }
        ),
    )
    return index


def _pixels(data: Mapping[str, Any] | None) -> PixelConfig:
    if data is None:
        return RGB
    low_high = data["range"]
    if data["bits"] not in (8, 16):
        raise ValueError(f"images of {data['bits']!r} bits")
    return PixelConfig(
        channels=int(data["channels"]),
        bits=data["bits"],
        range=None if low_high is None else (float(low_high[0]), float(low_high[1])),
    )


def label_type(num_classes: int) -> np.dtype:
    """The smallest type of integers that holds -1 and all classes."""
    return np.min_scalar_type(-max(num_classes, 2))


def _as_json(shard: ShardInfo) -> dict[str, Any]:
    """What is not at its default, so that an index of many shards stays small."""
    entry = shard._asdict()
    if shard.shape is not None:
        entry["shape"] = list(shard.shape)
    return {name: value for name, value in entry.items() if value != ShardInfo._field_defaults.get(name, ())}


def _save(file: Path, values: np.ndarray) -> str:
    data = io.BytesIO()
    np.save(data, values, allow_pickle=False)
    try:
        jsonio.write_bytes(file, data.getvalue())
    except OSError as error:
        raise ResourceError(f"{file}: cannot write {values.nbytes:,} bytes: {error.strerror}") from error
    return sums.sha256(file)
