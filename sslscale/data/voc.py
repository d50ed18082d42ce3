"""Images with objects annotated as PASCAL VOC's: `voc:FOLDER[:SET]`, a folder such as VOCdevkit/VOC2007."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from sslscale.data import sources
from sslscale.data.items import Item, Listing, account
from sslscale.errors import DataError

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def places(rest: str) -> tuple[Path, str]:
    """The folder and the set that a source names; raises DataError."""
    place, colon, name = rest.rpartition(":")
    folder = Path(place if colon else rest)
    if not sources.is_dir(folder / "Annotations"):
        raise DataError(f"{folder}: has no Annotations: write voc:FOLDER[:SET], such as voc:VOCdevkit/VOC2007:trainval")
    return folder, name if colon else "trainval"


def set_file(folder: Path, name: str) -> Path:
    """Where the images of a set are listed."""
    return folder / "ImageSets" / "Main" / f"{name}.txt"


def mask_file(folder: Path, name: str) -> Path:
    """Where the objects' masks of an image are, if it has any."""
    return folder / "SegmentationObject" / f"{name}.png"


def ids_of(folder: Path, name: str) -> list[str]:
    """The names of a set's images; raises DataError."""
    path = set_file(folder, name)
    try:
        ids = path.read_text("utf-8").split()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if not ids or any("/" in one for one in ids):
        raise DataError(f"{path}: must name an image on each line")
    return ids


def list_voc(folder: Path, name: str) -> Listing:
    """The images of a set, each with its objects; raises DataError."""
    items, names = [], set()
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for one in ids_of(folder, name):
        image = folder / "JPEGImages" / f"{one}.jpg"
        if not image.is_file():
            raise DataError(f"{set_file(folder, name)}: there is no image {image}")
        usable = 0
        for found in _objects_of(folder, one):
            kind = found.wrong
            counts[kind or ("crowd" if found.difficult else "objects")] += 1
            first.setdefault(kind, f"one of {one}.xml")
            usable += not kind
            names.add(found.name)
        counts["without objects"] += not usable
        item = Item(
            sources.usable_key(f"{folder.name}/{one}"), str(image), ".jpg", None, partial(sources.read_file, str(image))
        )
        items.append(item._replace(objects=partial(_objects, str(folder), one)))
    strangers = sorted(names - set(CLASSES))
    if strangers:
        raise DataError(f"{folder}: the class {strangers[0]!r} is none of VOC's 20: convert the set to COCO's format")
    return Listing(sources.unique(items), CLASSES, taken=account(len(items), counts, first))


class _Object(NamedTuple):
    name: str
    box: tuple[float, float, float, float]
    difficult: bool
    wrong: str


def _objects_of(folder: Path, one: str) -> list[_Object]:
    path = folder / "Annotations" / f"{one}.xml"
    try:
        root = ElementTree.parse(path).getroot()  # noqa: S314 - expat bounds the expansion of entities
        return [_object(found) for found in root.iter("object")]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (ElementTree.ParseError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is no VOC annotation ({error})") from None


def _object(found: ElementTree.Element) -> _Object:
    box = found.find("bndbox")
    assert box is not None, "an object without bndbox"
    # whole numbers from 1, both ends inside
    left, top, right, bottom = (float(box.findtext(name, "nan")) for name in ("xmin", "ymin", "xmax", "ymax"))
    place = (left - 1, top - 1, right, bottom)
    usable = all(map(math.isfinite, place)) and place[2] - place[0] >= 1 and place[3] - place[1] >= 1
    difficult = found.findtext("difficult", "0").strip() == "1"
    return _Object(str(found.findtext("name")).strip(), place, difficult, "" if usable else "without a usable box")


def _objects(folder: str, one: str, size: tuple[int, int]) -> bytes:
    import numpy as np
    from PIL import Image

    from sslscale.data.objects import Objects, encode_mask

    every = _objects_of(Path(folder), one)
    kept = [(number, found) for number, found in enumerate(every, 1) if not found.wrong]
    boxes = np.array([found.box for _, found in kept], np.float32).reshape(-1, 4)
    masks: tuple[list[int] | None, ...] = ()
    void = None
    path = mask_file(Path(folder), one)
    if path.is_file():
        with Image.open(path) as image:
            owner = np.asarray(image)
        if owner.shape != size:
            raise DataError(f"{path}: is not of the size of its image, {size[1]} x {size[0]}")
        masks = tuple(encode_mask(owner == number) for number, _ in kept)
        void = encode_mask(owner == 255)
    return Objects(
        size,
        np.clip(boxes, 0, np.array([*size[::-1]] * 2, np.float32)),
        np.array([CLASSES.index(found.name) for _, found in kept], np.int64),
        np.array([found.difficult for _, found in kept], bool),
        masks,
        void,
    ).encode()
