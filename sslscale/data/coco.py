"""Images with objects annotated in COCO's JSON: `coco:ANNOTATIONS.json:IMAGES`."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from sslscale.data import sources
from sslscale.data.items import Item, Listing, account
from sslscale.errors import DataError


class _Coco(NamedTuple):
    """A COCO file: images by their number, objects by image, categories in the order of their numbers."""

    images: Mapping[int, Mapping[str, Any]]
    objects: Mapping[int, list[Mapping[str, Any]]]
    categories: Mapping[int, str]
    annotated: bool  # image_info files list images alone

    def files(self, folder: Path) -> dict[int, Path]:
        """Where each image lies."""
        return {number: folder / str(image["file_name"]) for number, image in self.images.items()}


def places(source: str, rest: str) -> tuple[Path, Path]:
    """The annotation file and the folder of images that a source names; raises DataError."""
    annotations, _, images = rest.rpartition(":")
    if not annotations or not images:
        raise DataError(f"{source}: write coco:ANNOTATIONS.json:FOLDER_OF_IMAGES")
    if not sources.is_dir(Path(images)):
        raise DataError(f"{images}: there is no such folder of images")
    return Path(annotations), Path(images)


@lru_cache(maxsize=2)
def read(path: Path) -> _Coco:
    """Read an annotation file, the last two once; raises DataError if it is none."""
    try:
        data = json.loads(path.read_bytes())
        images = {int(image["id"]): image for image in data["images"]}
        categories = {int(one["id"]): str(one["name"]) for one in data.get("categories", [])}
        objects: dict[int, list[Mapping[str, Any]]] = {}
        for one in data.get("annotations", []):
            objects.setdefault(int(one["image_id"]), []).append(one)
        names = [str(image["file_name"]) for image in images.values()]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is no COCO annotation file ({type(error).__name__}: {error})") from None
    outside = [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise DataError(f"{path}: the image {outside[0]!r} lies outside the folder of images")
    strangers = objects.keys() - images.keys()
    if strangers:
        raise DataError(f"{path}: an object belongs to image {min(strangers)}, which the file does not list")
    return _Coco(images, objects, dict(sorted(categories.items())), "annotations" in data)


def list_coco(path: Path, folder: Path) -> Listing:
    """The images of an annotation file, each with its objects; raises DataError."""
    found = read(path)
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
        objects = partial(_objects, str(path), number) if found.annotated else None
        key, suffix = sources.usable_key(name.with_suffix("").as_posix()), place.suffix.lower()
        items.append(Item(key, str(place), suffix, None, partial(sources.read_file, str(place)), objects=objects))
        own = found.objects.get(number, [])
        kinds = [_why_unusable(one, found) for one in own]
        counts["without objects"] += not any(not kind for kind in kinds)
        for one, kind in zip(own, kinds, strict=True):
            counts[kind or ("crowd" if one.get("iscrowd") else "objects")] += 1
            first.setdefault(kind, f"object {one.get('id')} of image {number}")
    classes = tuple(found.categories.values())
    if found.annotated and not classes:
        raise DataError(f"{path}: has no categories")
    return Listing(sources.unique(items), classes, taken=account(len(items), counts, first) if found.annotated else "")


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


def _objects(path: str, number: int, size: tuple[int, int]) -> bytes:
    import numpy as np

    from sslscale.data.objects import Objects

    found = read(Path(path))
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
