"""Images with annotated objects, COCO's or PASCAL VOC's. What is damaged is left out and counted."""

from __future__ import annotations

from pathlib import Path

from sslscale.data import coco, voc
from sslscale.data.items import Listing

PREFIXES = ("coco:", "voc:")


def list_annotated(source: str) -> Listing:
    """The images of a `coco:` or `voc:` source, each with its objects; raises DataError."""
    kind, _, rest = source.partition(":")
    return coco.list_coco(*coco.places(source, rest)) if kind == "coco" else voc.list_voc(*voc.places(rest))


def files(source: str) -> tuple[Path, list[Path]]:
    """The folder that the files of a source are named from, and all that is read of it; raises DataError."""
    kind, _, rest = source.partition(":")
    if kind == "coco":
        annotations, images = coco.places(source, rest)
        return images, [annotations, *coco.read(annotations).files(images).values()]
    folder, name = voc.places(rest)
    ids = voc.ids_of(folder, name)
    every = [voc.set_file(folder, name), *(folder / "Annotations" / f"{one}.xml" for one in ids)]
    every += [folder / "JPEGImages" / f"{one}.jpg" for one in ids]
    return folder, every + [mask for one in ids if (mask := voc.mask_file(folder, one)).is_file()]
