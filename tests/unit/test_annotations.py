"""COCO's and VOC's annotations: what is packed of them, what is left out and told, and how it is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sslscale.data import annotations
from sslscale.data.joined import open_scenes
from sslscale.data.objects import Objects, decode_mask, encode_mask, parse
from sslscale.data.pack import pack
from sslscale.data.split import contents, split
from sslscale.errors import DataError
from sslscale.settings.data import PackConfig
from sslscale.stages.pack import content

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]


def image(path: Path, size: tuple[int, int] = (20, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)).save(path)


def coco(folder: Path, objects: list[dict[str, Any]], images: int = 3, **more: Any) -> str:
    """Images of 30 x 20 pixels with these objects; the source."""
    listed = []
    for n in range(1, images + 1):
        image(folder / "images" / f"{n}.png")
        listed.append({"id": n, "file_name": f"{n}.png", "height": 20, "width": 30})
    content = {"images": listed, "annotations": objects, "categories": CATEGORIES, **more}
    (folder / "all.json").write_text(json.dumps(content))
    return f"coco:{folder / 'all.json'}:{folder / 'images'}"


def thing(number: int, of: int, bbox: list[float], **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": of, "category_id": 7, "bbox": bbox, "iscrowd": 0, **more}


def packed(source: str, out: Path, **more: Any) -> tuple[dict[str, Objects], list[str]]:
    """The objects of all labelled images by key, and what packing told."""
    told: list[str] = []
    pack(PackConfig(source=source, **more), out, say=told.append)
    samples = open_scenes(out, ("labeled",))
    shard, row = samples.places()
    return {samples.key(n): samples.objects_of(int(shard[n]), int(row[n])) for n in range(len(samples))}, told


def test_boxes_masks_and_crowds_of_coco_are_packed(tmp_path: Path) -> None:
    plane = np.zeros((20, 30), bool)
    plane[5:9, 3:10] = True
    objects = [
        thing(1, 1, [2, 4, 6, 8], segmentation=[[2, 4, 8, 4, 8, 12, 2, 12]]),
        thing(2, 1, [3, 5, 7, 4], category_id=3, segmentation={"size": [20, 30], "counts": encode_mask(plane)}),
        thing(3, 2, [0, 0, 30, 20], iscrowd=1, segmentation={"size": [20, 30], "counts": [100, 500]}),
    ]
    found, told = packed(coco(tmp_path, objects), tmp_path / "out")
    one, two, three = (found[str(n)] for n in (1, 2, 3))
    assert one.boxes.tolist() == [[2, 4, 8, 12], [3, 5, 10, 9]] and one.size == (20, 30)
    assert one.labels.tolist() == [1, 0]  # categories in the order of their numbers: dog, cat
    assert decode_mask(one.masks[0] or (), (20, 30))[4:12, 2:8].all()
    assert decode_mask(one.masks[0] or (), (20, 30)).sum() == 48
    assert (decode_mask(one.masks[1] or (), (20, 30)) == plane).all()
    assert two.crowd.tolist() == [True] and len(three.boxes) == 0
    assert "3 images (1 without objects), 2 objects, 1 crowds or doubtful ones, which are ignored" in told[0]


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path: Path) -> None:
    objects = [
        thing(1, 1, [2, 4, 6, 8]),
        thing(2, 1, [2, 4, 0, 8]),
        thing(3, 2, [40, 4, 5, 8]),
        thing(4, 2, [1, 2, 3]),
        thing(5, 3, [1, 1, 5, 5], category_id=99),
        thing(6, 3, [25, 15, 20, 20]),
    ]
    found, told = packed(coco(tmp_path, objects), tmp_path / "out")
    assert [len(found[str(n)].boxes) for n in (1, 2, 3)] == [1, 0, 1]
    assert found["3"].boxes.tolist() == [[25, 15, 30, 20]]  # cut at the border
    assert "left out: 2 of less than a pixel (such as object 2 of image 1)" in told[0]
    assert "left out: 1 of an unknown category (such as object 5 of image 3)" in told[0]
    assert "left out: 1 without a usable box (such as object 4 of image 2)" in told[0]


def test_unlabelled_images_and_shares_and_other_sources_make_the_splits(tmp_path: Path) -> None:
    source = coco(tmp_path / "a", [thing(1, 1, [2, 4, 6, 8])], images=10)
    test = coco(tmp_path / "b", [thing(1, 2, [1, 1, 9, 9])], images=4)
    for n in range(5):
        image(tmp_path / "more" / f"{n}.jpg")
    config = PackConfig(source=source, test=test, val=0.2, unlabeled=str(tmp_path / "more"))
    found = split(config, annotations.list_annotated(source))
    assert {name: len(items) for name, items in found.parts.items()} == {
        "labeled": 8,
        "unlabeled": 5,
        "val": 2,
        "test": 4,
    }
    assert found.classes == ("dog", "cat") and contents(config) is None
    keys = [item.key for items in found.parts.values() for item in items if item.where.startswith(str(tmp_path / "a"))]
    keys += [item.key for item in found.parts["unlabeled"]]
    assert len(set(keys)) == len(keys) == 15  # 1.png and more/1.jpg are two images
    before = content(config, None)
    (tmp_path / "more" / "x.jpg").write_bytes((tmp_path / "more" / "0.jpg").read_bytes())
    assert content(config, None) != before
    info = tmp_path / "c" / "info.json"
    coco(tmp_path / "c", [])
    info.write_text(json.dumps({"images": [{"id": 1, "file_name": "1.png"}]}))
    listing = annotations.list_annotated(f"coco:{info}:{tmp_path / 'c' / 'images'}")
    assert [item.objects for item in listing.items] == [None]  # images alone are unlabelled


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 3}, "is no COCO annotation file"),
        ({"annotations": [{"image_id": 77}]}, "an object belongs to image 77, which the file does not list"),
        ({"categories": []}, "has no categories"),
        ({"images": [{"id": 1, "file_name": "../x.png"}], "annotations": []}, "lies outside the folder of images"),
        ({"images": [{"id": 1, "file_name": "gone.png"}], "annotations": []}, "there is no image .*gone.png"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    source = coco(tmp_path, [thing(1, 1, [2, 4, 6, 8])])
    file = tmp_path / "all.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(DataError, match=message):
        annotations.list_annotated(source)


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    wrong = thing(1, 1, [2, 4, 6, 8], segmentation={"size": [5, 5], "counts": [20, 5]})
    with pytest.raises(DataError, match="object 1: unusable segmentation"):
        packed(coco(tmp_path, [wrong]), tmp_path / "out")


def test_settings_that_are_for_classes_are_refused() -> None:
    values: dict[str, Any] = {"labels_per_class": 3, "resize": 64, "labels": "x.csv"}
    for name, value in values.items():
        with pytest.raises(ValueError, match=f"{name}: is not for annotated images"):
            PackConfig(source="coco:a.json:b", **{name: value})


VOC = """<annotation><size><width>30</width><height>20</height></size>
<object><name>dog</name><difficult>0</difficult><bndbox><xmin>3</xmin><ymin>2</ymin><xmax>10</xmax><ymax>12</ymax></bndbox></object>
<object><name>person</name><difficult>1</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>30</xmax><ymax>20</ymax></bndbox></object>
</annotation>"""


def test_voc_counts_from_one_and_its_difficult_objects_are_ignored(tmp_path: Path) -> None:
    root = tmp_path / "VOC2007"
    for part in ("Annotations", "ImageSets/Main", "SegmentationObject"):
        (root / part).mkdir(parents=True)
    image(root / "JPEGImages" / "000001.jpg")
    (root / "ImageSets/Main/trainval.txt").write_text("000001\n")
    (root / "Annotations/000001.xml").write_text(VOC)
    owner = np.zeros((20, 30), np.uint8)
    owner[2:10, 3:9], owner[12:14, 12:20], owner[0] = 1, 2, 255
    Image.fromarray(owner).save(root / "SegmentationObject" / "000001.png")
    found, told = packed(f"voc:{root}", tmp_path / "out")
    (one,) = found.values()
    assert one.boxes.tolist() == [[2, 1, 10, 12], [0, 0, 30, 20]] and one.crowd.tolist() == [False, True]
    assert one.labels.tolist() == [11, 14]
    assert (decode_mask(one.masks[0] or (), (20, 30)) == (owner == 1)).all()
    assert (decode_mask(one.void or (), (20, 30)) == (owner == 255)).all()
    assert "1 objects, 1 crowds or doubtful ones" in told[0]
    with pytest.raises(DataError, match="has no Annotations"):
        annotations.list_annotated(f"voc:{tmp_path}")
    (root / "Annotations/000001.xml").write_text(VOC.replace("dog", "unicorn"))
    with pytest.raises(DataError, match="the class 'unicorn' is none of VOC's 20"):
        annotations.list_annotated(f"voc:{root}")


def test_entities_that_grow_without_bound_are_refused(tmp_path: Path) -> None:
    """The "billion laughs": nine entities of ten of the next each."""
    root = tmp_path / "VOC2007"
    for part in ("Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    image(root / "JPEGImages" / "1.jpg")
    (root / "ImageSets/Main/trainval.txt").write_text("1\n")
    names = "abcdefghij"
    entities = "".join(f'<!ENTITY {a} "{f"&{b};" * 10}">' for a, b in zip(names[1:], names, strict=False))
    bomb = f'<?xml version="1.0"?><!DOCTYPE z [<!ENTITY a "laugh">{entities}]>'
    (root / "Annotations/1.xml").write_text(f"{bomb}<annotation><object><name>&j;</name></object></annotation>")
    with pytest.raises(DataError, match=r"1\.xml: is no VOC annotation .*amplification"):
        annotations.list_annotated(f"voc:{root}")


def test_masks_survive_their_run_lengths() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        plane = rng.random((7, 5)) < share
        assert (decode_mask(encode_mask(plane), (7, 5)) == plane).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": [[1, 1, 1, 5]]}, "a box has no area"),
        ({"labels": [5]}, "a class is none of the 3"),
        ({"masks": [[3, 4]]}, "a mask does not fill the image"),
        ({"crowd": []}, "its lists differ in length"),
        ({"boxes": [["x", 1, 2, 5]]}, "unusable objects.json"),
    ],
)
def test_unusable_objects_are_named(change: dict[str, Any], message: str) -> None:
    whole = {"size": [4, 6], "boxes": [[1, 1, 2, 3]], "labels": [1], "crowd": [0]}
    assert parse(json.dumps(whole).encode(), "a", 3).labels.tolist() == [1]
    with pytest.raises(DataError, match=message):
        parse(json.dumps({**whole, **change}).encode(), "a", 3)
    with pytest.raises(DataError, match=r"a: unusable objects\.json"):
        parse(b"{", "a", 3)
