"""Images with annotated objects: COCO's JSON, and the folders of PASCAL VOC.

`coco:ANNOTATIONS.json:IMAGES` are the images that the file lists; `voc:FOLDER[:SET]` those of a set (trainval) of
VOCdevkit/VOC2007 and its like. What is damaged is left out and counted.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from sslscale.data import sources
from sslscale.data.items import Item, Listing
from sslscale.errors import DataError

PREFIXES = ("coco:", "voc:")
_VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def list_annotated(source: str) -> Listing:
    """The images of a `coco:` or `voc:` source, each with its objects; raises DataError."""
    kind, _, rest = source.partition(":")
    return _list_coco(*_coco_places(source, rest)) if kind == "coco" else _list_voc(*_voc_places(rest))


def files(source: str) -> tuple[Path, list[Path]]:
    """The folder that the files of a source are named from, and all that is read of it; raises DataError."""
    kind, _, rest = source.partition(":")
    if kind == "coco":
        annotations, images = _coco_places(source, rest)
        return images, [annotations, *_read_coco(annotations).files(images).values()]
    folder, name = _voc_places(rest)
    ids = _voc_ids(folder, name)
    every = [_voc_set(folder, name), *(folder / "Annotations" / f"{one}.xml" for one in ids)]
    every += [folder / "JPEGImages" / f"{one}.jpg" for one in ids]
    return folder, every + [mask for one in ids if (mask := _voc_mask(folder, one)).is_file()]


# --- COCO ---------------------------------------------------------------------------------------------------------


class _Coco(NamedTuple):
    """A COCO file: images by their number, objects by image, categories in the order of their numbers."""

    images: Mapping[int, Mapping[str, Any]]
    objects: Mapping[int, list[Mapping[str, Any]]]
    categories: Mapping[int, str]
    annotated: bool  # image_info files list images alone

    def files(self, folder: Path) -> dict[int, Path]:
        """Where each image lies."""
        return {number: folder / str(image["file_name"]) for number, image in self.images.items()}


def _coco_places(source: str, rest: str) -> tuple[Path, Path]:
    annotations, _, images = rest.rpartition(":")
    if not annotations or not images:
        raise DataError(f"{source}: write coco:ANNOTATIONS.json:FOLDER_OF_IMAGES")
    if not sources.is_dir(Path(images)):
        raise DataError(f"{images}: there is no such folder of images")
    return Path(annotations), Path(images)


@lru_cache(maxsize=2)
def _read_coco(path: Path) -> _Coco:
    try:
        data = json.loads(path.read_bytes())
        images = {int(image["id"]): image for image in data["images"]}
        categories = {int(one["id"]): str(one["name"]) for one in data.get("categories", [])}
        objects: dict[int, list[Mapping[str, Any]]] = {}
        for one in data.get("annotations", []):
            objects.setdefault(int(one["image_id"]), []).append(one)
        for image in images.values():
            _ = image["file_name"]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is no COCO annotation file ({type(error).__name__}: {error})") from None
    strangers = objects.keys() - images.keys()
    if strangers:
        raise DataError(f"{path}: an object belongs to image {min(strangers)}, which the file does not list")
    return _Coco(images, objects, dict(sorted(categories.items())), "annotations" in data)


def _list_coco(path: Path, folder: Path) -> Listing:
    found = _read_coco(path)
    places = found.files(folder)
    missing = [place for place in places.values() if not place.is_file()]
    if missing:
        more = f", as are {len(missing) - 1:,} more of its {len(places):,} images" if len(missing) > 1 else ""
        raise DataError(f"{path}: there is no image {missing[0]}{more}")
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    items = []
    for number, place in places.items():
        name = Path(str(found.images[number]["file_name"]))
        objects = partial(_coco_objects, str(path), number) if found.annotated else None
        key, suffix = sources.usable_key(name.with_suffix("").as_posix()), place.suffix.lower()
        items.append(Item(key, str(place), suffix, None, partial(_read, str(place)), objects=objects))
        own = found.objects.get(number, [])
        kinds = [_why_unusable(one, found) for one in own]
        counts["without objects"] += not any(not kind for kind in kinds)
        for one, kind in zip(own, kinds, strict=True):
            counts[kind or ("crowd" if one.get("iscrowd") else "objects")] += 1
            first.setdefault(kind, f"object {one.get('id')} of image {number}")
    classes = tuple(found.categories.values())
    if found.annotated and not classes:
        raise DataError(f"{path}: has no categories")
    return Listing(sources.unique(items), classes, taken=_account(len(items), counts, first) if found.annotated else "")


def _account(images: int, counts: Counter[str], first: Mapping[str, str]) -> str:
    """What became of all annotations, in one line."""
    usual = ("objects", "without objects", "crowd")
    text = f"{images:,} images ({counts['without objects']:,} without objects), {counts['objects']:,} objects"
    text += f", {counts['crowd']:,} crowds or doubtful ones, which are ignored"
    for kind in sorted(kind for kind in counts if kind not in usual and counts[kind]):
        text += f"; left out: {counts[kind]:,} {kind} (such as {first[kind]})"
    return text


def _why_unusable(one: Mapping[str, Any], found: _Coco) -> str:
    """What is wrong with an object; empty if nothing is."""
    try:
        image = found.images[int(one["image_id"])]
        x, y, width, height = (float(value) for value in one["bbox"])
        if int(one["category_id"]) not in found.categories:
            return "of an unknown category"
    except (KeyError, TypeError, ValueError):
        return "without a usable box"
    if not all(map(math.isfinite, (x, y, width, height))):
        return "without a usable box"
    wide, tall = image.get("width", math.inf), image.get("height", math.inf)
    inside = min(x + width, wide) - max(x, 0), min(y + height, tall) - max(y, 0)
    return "" if min(inside) >= 1 else "of less than a pixel"


def _coco_objects(path: str, number: int, size: tuple[int, int]) -> bytes:
    import numpy as np

    from sslscale.data.objects import Objects

    found = _read_coco(Path(path))
    order = {category: place for place, category in enumerate(found.categories)}
    own = [one for one in found.objects.get(number, []) if not _why_unusable(one, found)]
    boxes = np.array([one["bbox"] for one in own], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes = np.clip(boxes, 0, np.array([*size[::-1]] * 2, np.float32))
    masks = tuple(_mask(one.get("segmentation"), size, f"{path}: object {one.get('id')}") for one in own)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    if not kept.all():
        raise DataError(f"{path}: a box of image {number} lies outside it: it has {size[1]} x {size[0]} pixels")
    return Objects(
        size,
        boxes,
        np.array([order[int(one["category_id"])] for one in own], np.int64),
        np.array([bool(one.get("iscrowd")) for one in own], bool),
        masks if any(mask is not None for mask in masks) else (),
    ).encode()


def _mask(found: Any, size: tuple[int, int], where: str) -> list[int] | None:
    """Run lengths of polygons, or of run lengths as COCO has them; None if there are none."""
    from faster_coco_eval.core import mask

    from sslscale.data.objects import encode_mask

    if not found:
        return None
    try:
        if isinstance(found, list):
            encoded: Any = mask.merge(mask.frPyObjects(found, *size))  # pyright: ignore[reportArgumentType]
        elif isinstance(found["counts"], list):
            if list(found["size"]) != list(size):
                raise ValueError(f"its size is {found['size']}, that of the image {list(size)}")
            encoded = mask.frPyObjects(found, *size)
        else:
            encoded = found
        return encode_mask(mask.decode(encoded).astype(bool).reshape(size))
    except Exception as error:  # whatever the library raises
        raise DataError(f"{where}: unusable segmentation ({error})") from None


# --- PASCAL VOC ---------------------------------------------------------------------------------------------------


def _voc_places(rest: str) -> tuple[Path, str]:
    place, colon, name = rest.rpartition(":")
    folder = Path(place if colon else rest)
    if not sources.is_dir(folder / "Annotations"):
        raise DataError(f"{folder}: has no Annotations: write voc:FOLDER[:SET], such as voc:VOCdevkit/VOC2007:trainval")
    return folder, name if colon else "trainval"


def _voc_set(folder: Path, name: str) -> Path:
    return folder / "ImageSets" / "Main" / f"{name}.txt"


def _voc_mask(folder: Path, name: str) -> Path:
    return folder / "SegmentationObject" / f"{name}.png"


def _voc_ids(folder: Path, name: str) -> list[str]:
    path = _voc_set(folder, name)
    try:
        ids = path.read_text("utf-8").split()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if not ids or any("/" in one for one in ids):
        raise DataError(f"{path}: must name an image on each line")
    return ids


def _list_voc(folder: Path, name: str) -> Listing:
    items, names = [], set()
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for one in _voc_ids(folder, name):
        image = folder / "JPEGImages" / f"{one}.jpg"
        if not image.is_file():
            raise DataError(f"{_voc_set(folder, name)}: there is no image {image}")
        usable = 0
        for found in _voc_objects_of(folder, one):
            kind = found.wrong
            counts[kind or ("crowd" if found.difficult else "objects")] += 1
            first.setdefault(kind, f"one of {one}.xml")
            usable += not kind
            names.add(found.name)
        counts["without objects"] += not usable
        item = Item(sources.usable_key(f"{folder.name}/{one}"), str(image), ".jpg", None, partial(_read, str(image)))
        items.append(item._replace(objects=partial(_voc_objects, str(folder), one)))
    strangers = sorted(names - set(_VOC_CLASSES))
    if strangers:
        raise DataError(f"{folder}: the class {strangers[0]!r} is none of VOC's 20: convert the set to COCO's format")
    return Listing(sources.unique(items), _VOC_CLASSES, taken=_account(len(items), counts, first))


class _VocObject(NamedTuple):
    name: str
    box: tuple[float, float, float, float]
    difficult: bool
    wrong: str


def _voc_objects_of(folder: Path, one: str) -> list[_VocObject]:
    path = folder / "Annotations" / f"{one}.xml"
    try:
        root = ElementTree.parse(path).getroot()  # noqa: S314 - expat bounds the expansion of entities
        return [_voc_object(found) for found in root.iter("object")]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (ElementTree.ParseError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is no VOC annotation ({error})") from None


def _voc_object(found: ElementTree.Element) -> _VocObject:
    box = found.find("bndbox")
    assert box is not None, "an object without bndbox"
    # whole numbers from 1, both ends inside
    left, top, right, bottom = (float(box.findtext(name, "nan")) for name in ("xmin", "ymin", "xmax", "ymax"))
    place = (left - 1, top - 1, right, bottom)
    usable = all(map(math.isfinite, place)) and place[2] - place[0] >= 1 and place[3] - place[1] >= 1
    difficult = found.findtext("difficult", "0").strip() == "1"
    return _VocObject(str(found.findtext("name")).strip(), place, difficult, "" if usable else "without a usable box")


def _voc_objects(folder: str, one: str, size: tuple[int, int]) -> bytes:
    import numpy as np
    from PIL import Image

    from sslscale.data.objects import Objects, encode_mask

    every = _voc_objects_of(Path(folder), one)
    kept = [(number, found) for number, found in enumerate(every, 1) if not found.wrong]
    boxes = np.array([found.box for _, found in kept], np.float32).reshape(-1, 4)
    masks: tuple[list[int] | None, ...] = ()
    void = None
    path = _voc_mask(Path(folder), one)
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
        np.array([_VOC_CLASSES.index(found.name) for _, found in kept], np.int64),
        np.array([found.difficult for _, found in kept], bool),
        masks,
        void,
    ).encode()


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
