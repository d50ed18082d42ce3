"""The objects of an image: their boxes, classes and masks, as KEY.objects.json holds them beside the image.

    {"size": [height, width], "boxes": [[x0, y0, x1, y1], ...], "labels": [3, ...], "crowd": [0, ...],
     "masks": [[counts], null, ...], "void": [counts]}

Boxes are in pixels of the image, from its upper left corner. Masks are COCO's run lengths: column after column, how
many pixels are outside, inside, outside and so on. `masks` and `void` (pixels that are nobody's) may be left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sslscale.data import tar
from sslscale.data.shard import members_named
from sslscale.data.shards import Shards
from sslscale.errors import DataError
from sslscale.storage import jsonio, sums

MEMBER = "objects.json"
_OPEN = 256  # shards whose found objects are kept in memory
Counts = Sequence[int]


class Objects(NamedTuple):
    """The objects of one image. `crowd` are regions of many objects, or doubtful ones: neither learned nor counted."""

    size: tuple[int, int]  # height and width of the image
    boxes: np.ndarray  # float32 (objects, 4): x0, y0, x1, y1
    labels: np.ndarray  # int64 (objects,)
    crowd: np.ndarray  # bool (objects,)
    masks: tuple[Counts | None, ...] = ()  # of each object, or of none
    void: Counts | None = None

    def encode(self) -> bytes:
        """The bytes of KEY.objects.json."""
        found: dict[str, Any] = {
            "size": list(self.size),
            "boxes": [[round(float(x), 2) for x in box] for box in self.boxes],
            "labels": self.labels.tolist(),
            "crowd": self.crowd.astype(int).tolist(),
        }
        if self.masks:
            found["masks"] = [None if mask is None else list(map(int, mask)) for mask in self.masks]
        if self.void is not None:
            found["void"] = list(map(int, self.void))
        return json.dumps(found, separators=(",", ":")).encode()


def parse(raw: bytes, where: str, num_classes: int) -> Objects:
    """Read KEY.objects.json; raises DataError that says what is wrong with it."""
    try:
        return _checked(json.loads(raw), num_classes)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(f"{where}: unusable {MEMBER} ({error})") from None


def _checked(data: Any, num_classes: int) -> Objects:
    height, width = (int(x) for x in data["size"])
    boxes = np.array(data["boxes"], np.float32).reshape(-1, 4)
    labels, crowd = np.array(data["labels"], np.int64), np.array(data["crowd"], bool)
    masks, void = tuple(data.get("masks") or ()), data.get("void")
    if not len(boxes) == len(labels) == len(crowd) or len(masks) not in (0, len(boxes)):
        raise ValueError("its lists differ in length")
    if height < 1 or width < 1 or not np.isfinite(boxes).all() or (boxes[:, 2:] <= boxes[:, :2]).any():
        raise ValueError("a box has no area")
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"a class is none of the {num_classes}")
    for mask in (*masks, void):
        if mask is not None and (sum(mask) != height * width or min(mask, default=0) < 0):
            raise ValueError("a mask does not fill the image")
    return Objects((height, width), boxes, labels, crowd, masks, void)


def decode_mask(counts: Counts, size: tuple[int, int]) -> np.ndarray:
    """A mask, bool (height, width), of its run lengths."""
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(size[1], size[0]).T


def encode_mask(mask: np.ndarray) -> list[int]:
    """The run lengths of a mask, bool (height, width)."""
    flat = mask.T.reshape(-1)
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], ends, [len(flat)]])).tolist()
    return [0, *runs] if len(flat) and flat[0] else runs


class StoredObjects:
    """The objects of the images of some shards, read from the shards when they are asked for."""

    def __init__(self, shards: Shards):
        self._shards = shards
        self._places: dict[int, np.ndarray] = {}

    def take(self, shard: int, row: int) -> Objects:
        """The objects of one image; raises DataError if it has none stored."""
        if shard not in self._places:
            self._places[shard] = self._find(shard)
        start, size = self._places[shard][row].tolist()
        opened = self._shards[shard]
        where = f"{opened.path}: {opened.key(row)}"
        if not size:
            raise DataError(
                f"{where}: has no {MEMBER}: pack COCO or VOC annotations with data.source coco:... or voc:..."
            )
        with open(opened.path, "rb") as file:
            file.seek(start)
            raw = file.read(size)
        return parse(raw, where, len(self._shards.index.classes))

    def _find(self, number: int) -> np.ndarray:
        """Offset and size of the objects of each image of a shard, int64 (images, 2); 0 where there are none."""
        shard = self._shards[number]
        found, _ = members_named(shard, MEMBER)
        none = tar.Member("", 0, 0)
        return np.array([found.get(key, none)[1:] for key in shard.keys], np.int64).reshape(-1, 2)


class FoundObjects:
    """The objects that a detector found in the images of some shards: FOLDER/objects-%06d.jsonl, one line an image."""

    def __init__(self, folder: Path, num_classes: int):
        self._folder, self._num_classes = folder, num_classes
        self._lines = lru_cache(maxsize=_OPEN)(self._read)  # a window of shards, not all that were ever read

    def take(self, shard: int, row: int) -> Objects:
        """The objects of one image."""
        return parse(self._lines(shard)[row], f"{found_file(self._folder, shard)}:{row + 1}", self._num_classes)

    def _read(self, shard: int) -> list[bytes]:
        return sums.checked(found_file(self._folder, shard)).read_bytes().splitlines()


def found_file(folder: Path, shard: int) -> Path:
    """Where the objects found in one shard stand."""
    return folder / f"objects-{shard:06d}.jsonl"


def write_found(folder: Path, shard: int, objects: Iterable[Objects]) -> None:
    """Write the objects found in the images of one shard."""
    jsonio.write_bytes(found_file(folder, shard), b"".join(found.encode() + b"\n" for found in objects))
