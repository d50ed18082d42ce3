"""Images with objects: boxes and masks move with the pixels, losses and precision are what their definitions say."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib
import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import t

import sslscale
from sslscale.data import box_policy
from sslscale.data.augment import make_view, moves, normalize
from sslscale.data.box_policy import autoaugment
from sslscale.data.objects import Objects, encode_mask
from sslscale.data.plan import make_plan, num_draws
from sslscale.data.scene import CROWD, IGNORED, Scene, moved, place, semantic_map
from sslscale.errors import DataError
from sslscale.evaluate.detection import Found, average_precision, jackknife, overlap
from sslscale.evaluate.patch_knn import place_labels
from sslscale.methods.detection import Detection
from sslscale.methods.detection_self_training import DetectionSelfTraining
from sslscale.methods.method import build_method
from sslscale.nn.classifier import build_backbone
from sslscale.nn.detector import Detector, as_targets, build_detector, segmentation_loss
from sslscale.nn.pyramid import StageMaps
from sslscale.settings.augment import AugmentConfig, RandAugmentConfig
from sslscale.settings.detection import DetectorConfig
from sslscale.settings.model import ModelConfig
from sslscale.train import checkpoint, first_weights
from tests import runs
from tests.configurations import CONFIGS, batch_of

FILL = torch.tensor([10, 120, 90], dtype=torch.uint8)  # which no gray pixel is


def picture(height: int, width: int, boxes: list[tuple[int, int, int, int]]) -> tuple[memoryview, Objects]:
    """White rectangles on black, encoded, with their boxes and masks."""
    pixels = np.zeros((height, width, 3), np.uint8)
    masks = []
    for x0, y0, x1, y1 in boxes:
        plane = np.zeros((height, width), bool)
        plane[y0:y1, x0:x1] = True
        pixels[plane] = 255
        masks.append(encode_mask(plane))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    count = len(boxes)
    objects = Objects(
        (height, width),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.arange(count),
        np.zeros(count, bool),
        tuple(masks),
    )
    return memoryview(buffer.getvalue()), objects


def bright(view: np.ndarray, above: int = 127) -> np.ndarray:
    """Where an image (3, h, w) of 0 to 255 is white."""
    return np.asarray((view > above).all(0))


def bounds(plane: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(plane.any(1)), np.flatnonzero(plane.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize("factor", [0.4, 1.0, 1.7])
@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (300, 200)])
def test_boxes_and_masks_lie_on_the_pixels_of_the_canvas(factor: float, shape: tuple[int, int]) -> None:
    height, width = shape
    encoded, objects = picture(height, width, [(width // 4, height // 5, width // 2, height // 2)])
    scene = place(encoded, objects, 96, FILL, factor, 0.3, 0.6, masks=True)
    seen = bright(scene.pixels.numpy())
    assert scene.pixels.shape == (3, 96, 96) and scene.masks is not None and scene.void is not None
    assert np.abs(np.array(bounds(seen)) - scene.boxes[0]).max() <= 1.0
    assert (seen & scene.masks[0]).sum() / (seen | scene.masks[0]).sum() > 0.85
    empty = (scene.pixels == FILL.view(3, 1, 1)).all(0).numpy()
    assert (empty == scene.void).all() and (factor > 1 or empty.any())
    x0, y0 = objects.boxes[0][:2]
    across, down, left, top = scene.placement
    corner = np.maximum([x0 * across - left, y0 * down - top], 0)  # cut at the canvas
    assert np.allclose(corner, scene.boxes[0][:2], atol=1e-3)


def test_objects_that_leave_the_canvas_are_dropped_and_cut_ones_are_cut() -> None:
    encoded, objects = picture(100, 100, [(0, 0, 10, 10), (40, 40, 60, 60), (90, 90, 100, 100)])
    scene = place(encoded, objects, 100, FILL, 2.0, 0.5, 0.5, masks=False)  # the middle, twice as large
    assert scene.boxes.tolist() == [[30, 30, 70, 70]] and scene.labels.tolist() == [1]
    scene = place(encoded, objects, 100, FILL, 2.0, 0.0, 0.0, masks=False)
    assert scene.boxes.tolist() == [[0, 0, 20, 20], [80, 80, 100, 100]]


MOVING = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


@pytest.mark.parametrize("operations", [*((name,) for name in (*MOVING, "posterize")), MOVING])
@pytest.mark.parametrize("mirrored", [False, True])
def test_boxes_follow_randaugment_and_flips(operations: tuple[str, ...], mirrored: bool) -> None:
    """The view that the device makes and the boxes that the host computes, from the same draws; of several operations
    in their order."""
    own = RandAugmentConfig(num_ops=2, magnitude=8, operations=operations, translate=0.2)
    config = AugmentConfig(flip=True, randaugment=own)
    encoded, objects = picture(96, 96, [(30, 40, 50, 64)])
    for seed in range(12):
        draws = torch.rand(1, num_draws(config), generator=torch.Generator().manual_seed(seed))
        draws[0, 2] = 0.1 if mirrored else 0.9
        plan = make_plan(draws, config, 96, 96, 96)
        assert plan.layers is not None and plan.mirrored is not None and bool(plan.mirrored[0]) == mirrored
        scene = place(encoded, objects, 96, FILL, 1.0, 0.0, 0.0, masks=True)
        view = make_view(scene.pixels[None], plan, config, 96, (0.0,) * 3, (1.0,) * 3)[0].numpy() * 255
        there = moved(scene, 96, mirrored=mirrored, matrix=moves(plan.layers, own, 96)[0])
        seen = bright(view, 150)  # empty pixels are 128
        assert there.masks is not None
        assert np.abs(np.array(bounds(seen)) - there.boxes[0]).max() <= 1.5
        assert (seen & there.masks[0]).sum() / (seen | there.masks[0]).sum() > 0.85


def test_autoaugment_keeps_boxes_and_masks_on_their_pixels() -> None:
    encoded, objects = picture(96, 96, [(30, 30, 50, 60)])
    scene = place(encoded, objects, 96, FILL, 1.0, 0.0, 0.0, masks=True)
    changed = set()
    for seed in range(60):
        found = autoaugment(scene, np.random.default_rng(seed))
        again = autoaugment(scene, np.random.default_rng(seed))
        assert torch.equal(found.pixels, again.pixels) and found.masks is not None
        seen = bright(found.pixels.numpy(), 250)
        overlap = (seen & found.masks[0]).sum() / (seen | found.masks[0]).sum()
        if torch.equal(scene.pixels, found.pixels):
            changed.add("nothing")
        elif (found.boxes == scene.boxes).all():
            changed.add("pixels")  # colours, cutout, and what is inside the boxes
            assert seen.sum() <= 600
        else:
            changed.add("boxes")
            x0, y0, x1, y1 = bounds(found.masks[0]) - found.boxes[0]  # what is inside the box may have moved after it
            assert x0 >= -1.5 and y0 >= -1.5 and x1 <= 1.5 and y1 <= 1.5
            assert overlap > 0.8
    assert changed == {"nothing", "pixels", "boxes"}


def test_an_operation_in_the_boxes_is_drawn_for_each_box_a_third_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_policy, "V0", ((("translate_y_in_boxes", 0.6, 6),),))
    encoded, objects = picture(64, 64, [(10, 10, 30, 40), (40, 40, 60, 60)])
    scene = place(encoded, objects, 64, FILL, 1.0, 0.0, 0.0, masks=True)
    assert scene.masks is not None
    moved_masks = np.zeros(2)
    for seed in range(400):
        found = autoaugment(scene, np.random.default_rng(seed))
        assert found.masks is not None
        moved_masks += (found.masks != scene.masks).any((1, 2))
    assert (abs(moved_masks / 400 - 0.2) < 0.08).all()  # four standard deviations


def test_what_is_in_a_box_moves_and_the_box_stays() -> None:
    encoded, objects = picture(64, 64, [(10, 10, 30, 40), (40, 40, 60, 60)])
    scene = place(encoded, objects, 64, FILL, 1.0, 0.0, 0.0, masks=True)
    found = box_policy._translate_in_boxes(scene, 10, 1.0, np.random.default_rng(0))
    assert (found.boxes == scene.boxes).all() and found.masks is not None and scene.masks is not None
    reach = round(120 / 640 * 64)
    for n, (x0, y0, x1, y1) in enumerate(scene.boxes.astype(int).tolist()):
        inside = bright(found.pixels.numpy(), 200)[y0:y1, x0:x1]
        assert inside.sum() == (x1 - x0) * (y1 - y0 - reach) == found.masks[n].sum()
        assert (found.pixels[:, y0:y1, x0:x1].numpy().transpose(1, 2, 0)[~inside] == 128).all()


def test_a_map_of_classes_has_small_objects_above_and_crowds_ignored() -> None:
    masks = np.zeros((3, 8, 8), bool)
    masks[0, 2:4, 2:4], masks[1, :6, :6], masks[2, 6:, 6:] = True, True, True
    boxes = np.array([[2, 2, 4, 4], [0, 0, 6, 6], [6, 6, 8, 8]], np.float32)
    void = np.zeros((8, 8), bool)
    void[7, 0] = True
    scene = Scene(torch.zeros(3, 8, 8, dtype=torch.uint8), boxes, np.array([4, 0, CROWD]), masks, void, (1, 1, 0, 0))
    found = semantic_map(scene, 8)
    assert found[3, 3] == 5 and found[0, 0] == 1 and found[7, 7] == IGNORED == found[7, 0] and found[7, 3] == 0
    assert (semantic_map(scene._replace(masks=None), 8) == IGNORED).all()  # boxes alone say nothing of pixels


# --- losses -----------------------------------------------------------------------------------------------------------


def test_pixels_that_are_ignored_cost_nothing() -> None:
    torch.manual_seed(0)
    logits, wanted = torch.randn(3, 4, 5, 5), torch.randint(0, 4, (3, 5, 5))
    wanted[0, :2], wanted[2] = IGNORED, IGNORED
    found = segmentation_loss(logits, wanted, IGNORED)
    for n in range(3):
        costs = [
            -float(logits[n, :, y, x].double().log_softmax(0)[wanted[n, y, x]])
            for y in range(5)
            for x in range(5)
            if wanted[n, y, x] != IGNORED
        ]
        assert float(found[n]) == pytest.approx(sum(costs) / max(len(costs), 1), rel=1e-5)


def test_the_pseudo_loss_is_scaled_to_the_annotations_loss() -> None:
    """Zoph et al.'s appendix C, by numbers: running means, and one ratio without a gradient."""
    config = CONFIGS["detection_self_training"]
    settings: Any = config.method
    torch.manual_seed(0)
    method: Any = build_method(settings, config.model, 10)
    means: list[float] | None = None
    for step in range(3):
        batch = {name: batch_of(config, name, size, step) for name, size in config.batch_sizes.items()}
        before = copy.deepcopy(method.state_dict())
        losses = method(batch)
        method.load_state_dict(before)
        one, _ = method.loss_of(batch["labeled"])
        two, _ = method.loss_of(batch["pseudo"])
        h, p = float(one.detach()), float(two.detach())
        momentum = settings.momentum
        means = (
            [h, p] if means is None else [momentum * m + (1 - momentum) * x for m, x in zip(means, (h, p), strict=True)]
        )
        wanted = (h + settings.weight * means[0] / means[1] * p) / (1 + settings.weight)
        assert float(losses.total.detach()) == pytest.approx(wanted, rel=1e-5)
        method.means = torch.tensor(means)


def test_joint_training_adds_the_classifiers_cross_entropy() -> None:
    config = CONFIGS["detection_classification"]
    settings: Any = dataclasses.replace(config.method, weight=0.5, label_smoothing=0.1)  # type: ignore[call-arg]
    torch.manual_seed(0)
    method: Any = build_method(settings, config.model, 10).eval()
    batch = {name: batch_of(config, name, size, 0) for name, size in config.batch_sizes.items()}
    losses = method(batch)
    logits = method.classifier(method.network.backbone(batch["classified"].views[0])).detach().double().log_softmax(1)
    labels = batch["classified"].label
    costs = [-0.9 * float(row[n]) - 0.1 * float(row.mean()) for row, n in zip(logits, labels, strict=True)]
    detected, _ = method.loss_of(batch["labeled"])
    assert float(losses.total.detach()) == pytest.approx(float(detected.detach()) + 0.5 * np.mean(costs), rel=1e-5)
    losses.total.backward()
    assert all(p.grad is not None for p in method.network.backbone.parameters())


# --- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn", "retinanet", "fcos", "fcn", "linear"])
@pytest.mark.parametrize("model", ["wrn_10_0.5", "resnet_18_0.25", "vit_64x2_8"])
def test_each_detector_stands_on_each_backbone(name: Any, model: str) -> None:
    torch.manual_seed(0)
    config = DetectorConfig(name=name, width=32, hidden=32, proposals=20, sampled=16)
    network = build_detector(config, ModelConfig(name=model), 3)
    names = [n for n in network.state_dict() if "backbone.body.backbone." in n or n.startswith("maps.")]
    assert len({id(v) for v in network.state_dict().values()}) == len(network.state_dict()) and names  # no weight twice
    images = torch.randn(2, 3, 64, 64)
    if not isinstance(network, Detector):
        assert network(images).shape == (2, 4, 64, 64)
        return
    boxes, labels = torch.tensor([[[4.0, 4, 30, 30], [0, 0, 64, 64]]] * 2), torch.tensor([[2, CROWD]] * 2)
    targets = as_targets(boxes, labels, torch.ones(2, 2, 64, 64, dtype=torch.uint8))
    assert all(len(one["boxes"]) == len(one["masks"]) == 1 for one in targets)
    losses = network(images, targets)
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in network.parameters())
    assert any(p.grad is not None and bool(p.grad.any()) for p in network.backbone.parameters())
    with torch.no_grad():
        found = network.eval()(images)
    assert len(found) == 2 and all(one["labels"].numel() == 0 or 0 <= int(one["labels"].max()) < 3 for one in found)


def test_the_last_map_of_a_wide_residual_network_is_normed() -> None:
    """Its blocks begin with a norm, so that the last one ends without: where others end with one, this has its own."""
    torch.manual_seed(0)
    backbone: Any = build_backbone(ModelConfig(name="wrn_10_0.5"))[0].eval()
    backbone.norm.running_mean += 0.3
    maps = StageMaps(backbone, 32).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = backbone.norm(backbone.blocks(backbone.stem(x)))
        torch.testing.assert_close(maps(x)[-1].relu(), wanted.relu())
    assert maps.strides == [1, 2, 4]


def test_a_detector_begins_with_a_backbone_and_is_read_back(tmp_path: Any) -> None:
    model, image = ModelConfig(name="resnet_18_0.25"), CONFIGS["detection"].image
    torch.manual_seed(0)
    for name in ("faster_rcnn", "fcn", "linear"):
        config = DetectorConfig(name=name, width=16, hidden=32, frozen=name == "linear")  # type: ignore[arg-type]
        first, second = (build_method(Detection(detector=config), model, 3) for _ in range(2))
        result: Any = first.result
        info = checkpoint.describe_model(result, model, image, ("a", "b", "c"))
        folder = tmp_path / name
        folder.mkdir()
        checkpoint.save_model(folder, result, info)
        read, again = checkpoint.load_detector(folder)
        assert again == info and again.detector == config
        for name_of, value in result.state_dict().items():
            assert torch.equal(read.state_dict()[name_of], value)
        first_weights.initialize_method(second, folder, ("x",))
        other: Any = second.result
        for name_of, value in result.backbone.state_dict().items():
            assert torch.equal(other.backbone.state_dict()[name_of], value)
        assert {p.requires_grad for p in other.backbone.parameters()} == {not config.frozen}
        assert other.train().backbone.training == (not config.frozen)


def test_a_loaded_detector_finds_objects_in_the_pixels_of_the_image(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The boxes of a square canvas on images of another shape, by `sslscale.load` and by `predict`."""
    config, model = DetectorConfig(name="fcos", width=64, min_score=0.0), ModelConfig(name="resnet_18_0.25")
    torch.manual_seed(0)
    network: Any = build_detector(config, model, 3)
    image = dataclasses.replace(CONFIGS["detection"].image, size=64)
    (tmp_path / "c").mkdir()
    checkpoint.save_model(tmp_path / "c", network, checkpoint.describe_model(network, model, image, ("a", "b", "c")))
    for name, (height, width) in (("tall", (200, 100)), ("wide", (48, 96))):
        encoded, _ = picture(height, width, [(10, 10, 40, 40)])
        (tmp_path / f"{name}.png").write_bytes(encoded)
    loaded = sslscale.load(tmp_path / "c")
    tall, wide = loaded.objects([tmp_path / "tall.png", tmp_path / "wide.png"], threshold=0.0)
    for found, (height, width) in ((tall, (200, 100)), (wide, (48, 96))):
        encoded, _ = picture(height, width, [(10, 10, 40, 40)])
        fill = torch.tensor([round(255 * m) for m in image.mean], dtype=torch.uint8)
        canvas = place(encoded, None, 64, fill, 1.0, 0.0, 0.0, masks=False).pixels[None]
        with torch.no_grad():
            (there,) = network.eval()(normalize(canvas, image.mean, image.std))
        wanted = (there["boxes"].numpy() * max(height, width) / 64).clip(0, [width, height] * 2)
        wanted = wanted[((wanted[:, 2:] - wanted[:, :2]) > 0.01).all(1)]
        assert len(found) == len(wanted) > 5 and {one["class"] for one in found} <= {"a", "b", "c"}
        assert np.abs(np.array([one["box"] for one in found]) - wanted).max() < 0.6
    (tmp_path / "bad.png").write_bytes(b"no image")
    words = ["predict", tmp_path / "c", tmp_path / "tall.png", tmp_path / "bad.png", "--json"]
    out, err = runs.in_process(capsys, *words, code=3)
    assert "objects" in json.loads(out) and "bad.png: " in err
    with pytest.raises(DataError, match="finds objects and has no classes"):
        checkpoint.load_model(tmp_path / "c")


# --- precision --------------------------------------------------------------------------------------------------------


def guesses(rng: np.random.Generator, images: int = 30) -> tuple[list[Objects], list[Found]]:
    """Objects of three classes, crowds among them, and boxes that are near, wrong or nothing."""
    true, found = [], []
    for _ in range(images):
        count = int(rng.integers(0, 5))
        corner = rng.uniform(0, 60, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 38, (count, 2))], 1).astype(np.float32)
        planes = [np.zeros((100, 100), bool) for _ in range(count)]
        for plane, (x0, y0, x1, y1) in zip(planes, boxes.round().astype(int), strict=True):
            plane[y0:y1, x0 : x0 + (x1 - x0) * 2 // 3] = True  # smaller than the box: areas are the masks'
        masks = tuple(encode_mask(plane) for plane in planes)
        labels = rng.integers(0, 3, count)
        true.append(Objects((100, 100), boxes, labels, rng.random(count) < 0.15, masks))
        shift = rng.normal(0, 3, boxes.shape)
        said = np.concatenate([boxes + shift, boxes[: count // 2] + 2 * shift[: count // 2]]).clip(0, 100)
        said = np.concatenate([said[:, :2], np.maximum(said[:, 2:], said[:, :2] + 1)], 1).astype(np.float32)
        own = np.where(rng.random(len(said)) < 0.8, np.concatenate([labels, labels[: count // 2]]), 0)
        planes = [np.zeros((100, 100), bool) for _ in range(len(said))]
        for plane, (x0, y0, x1, y1) in zip(planes, said.round().astype(int), strict=True):
            plane[y0 : max(y1, y0 + 1), x0 : x0 + max((x1 - x0) * 2 // 3, 1)] = True
        objects = Objects((100, 100), said, own, np.zeros(len(said), bool), tuple(encode_mask(p) for p in planes))
        found.append(Found(objects, rng.random(len(said)).astype(np.float32)))
    return true, found


@pytest.mark.parametrize("masks", [False, True])
def test_average_precision_is_pycocotools(masks: bool) -> None:
    modules = [importlib.import_module(f"pycocotools.{name}") for name in ("mask", "coco", "cocoeval")]
    coco_mask, COCO, COCOeval = modules[0], modules[1].COCO, modules[2].COCOeval

    true, found = guesses(np.random.default_rng(0))

    def rows(objects: Objects, n: int) -> list[dict[str, Any]]:
        made = []
        for k, (x0, y0, x1, y1) in enumerate(objects.boxes.astype(float).tolist()):
            one = {"image_id": n + 1, "category_id": int(objects.labels[k]) + 1, "iscrowd": int(objects.crowd[k])}
            one |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
            counts = objects.masks[k] or ()
            one["area"] = float(sum(counts[1::2]))  # COCO's areas are those of the masks
            if masks:
                one["segmentation"] = coco_mask.frPyObjects({"size": [100, 100], "counts": list(counts)}, 100, 100)
            made.append(one)
        return made

    truth = [one for n, objects in enumerate(true) for one in rows(objects, n)]
    said = [
        {**one, "score": float(score)}
        for n, f in enumerate(found)
        for one, score in zip(rows(f.objects, n), f.scores, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        gold = COCO()
        gold.dataset = {
            "images": [{"id": n + 1, "height": 100, "width": 100} for n in range(len(true))],
            "annotations": [{**one, "id": k + 1} for k, one in enumerate(truth)],
            "categories": [{"id": n + 1, "name": str(n)} for n in range(3)],
        }
        gold.createIndex()
        run = COCOeval(gold, gold.loadRes(said), "segm" if masks else "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    result = average_precision(true, found, ("a", "b", "c"), masks=masks, groups=0)
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    assert [result[name] for name in names] == pytest.approx(run.stats[:6], abs=1e-6)
    assert 0.03 < result["ap"] < 0.9
    assert np.mean(list(result["by_class"].values())) == pytest.approx(result["ap"], abs=1e-6)


def test_average_precision_is_the_area_under_precision_by_recall() -> None:
    """At one threshold, of one class, from the definition: at 101 recalls the best precision from there on."""
    true, found = guesses(np.random.default_rng(1))
    true = [o._replace(labels=np.zeros_like(o.labels), crowd=np.zeros_like(o.crowd)) for o in true]
    found = [Found(f.objects._replace(labels=np.zeros_like(f.objects.labels)), f.scores) for f in found]
    ranked = sorted(((float(s), n, k) for n, f in enumerate(found) for k, s in enumerate(f.scores)), reverse=True)
    taken: set[tuple[int, int]] = set()
    hits = []
    for _, n, k in ranked:
        a = found[n].objects.boxes[k].astype(float)
        best, which = 0.5, None
        for m, b in enumerate(true[n].boxes.astype(float)):
            wide, tall = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            inside = max(wide, 0) * max(tall, 0)
            both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside
            if (n, m) not in taken and inside / both >= best:
                best, which = inside / both, (n, m)
        hits.append(which is not None)
        taken |= {which} if which else set()
    right = np.cumsum(hits)
    precision, recall = right / np.arange(1, len(hits) + 1), right / sum(len(o.boxes) for o in true)
    area = np.mean([max(precision[recall >= r - 1e-12], default=0.0) for r in np.linspace(0, 1, 101)])
    result = average_precision(true, found, ("a",), masks=False, groups=0)
    assert result["ap50"] == pytest.approx(area, abs=1e-6)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(3, 2, 40)
    ((low, high),) = jackknife(lambda kept: [float(values[list(kept)].mean())], 40, 40)
    reach = t.ppf(0.975, 39) * values.std(ddof=1) / np.sqrt(40)
    assert (low, high) == pytest.approx((values.mean() - reach, values.mean() + reach))


def test_overlap_is_intersection_over_union_of_the_classes_that_are_there() -> None:
    rng = np.random.default_rng(0)
    true, said = rng.integers(0, 3, 500), rng.integers(0, 4, 500)
    counts = np.zeros((4, 4), np.int64)
    np.add.at(counts, (true, said), 1)
    result = overlap(counts)
    wanted = [((true == c) & (said == c)).sum() / ((true == c) | (said == c)).sum() for c in range(3)]
    assert result.miou == pytest.approx(np.mean(wanted)) and result.by_class[3] is None
    assert result.pixel_accuracy == pytest.approx((true == said).mean())


def test_a_place_has_the_class_of_most_of_its_pixels_and_the_nearest_places_vote() -> None:
    semantic = torch.zeros(1, 8, 8, dtype=torch.int64)
    semantic[0, :4, :4], semantic[0, :4, 4:], semantic[0, 4:, :4] = 2, IGNORED, 1
    semantic[0, 0, 0], semantic[0, 4, :3] = 1, 3
    assert place_labels(semantic, 2, 4)[0].tolist() == [[2, IGNORED], [1, 0]]


def test_augmentation_that_leaves_the_boxes_behind_is_refused() -> None:
    """Crops that only move pixels, on images with objects; and the other way round."""
    config = CONFIGS["detection"]
    for crop in ("pad", "resized"):
        with pytest.raises(ValueError, match=f"images with objects take none or scale, not {crop}"):
            dataclasses.replace(config, augment=AugmentConfig(crop=crop))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"augment\.count: of labeled: images with objects have one view"):
        dataclasses.replace(config, augment=AugmentConfig(crop="scale", count=2))
    with pytest.raises(ValueError, match=r"augment\.crop: scale is for images with objects"):
        dataclasses.replace(CONFIGS["simclr"], augment=AugmentConfig(crop="scale"))


def test_crowds_are_not_learned_and_settings_say_what_they_need() -> None:
    assert Detection(detector=DetectorConfig(name="mask_rcnn")).fields == ("boxes", "box_label", "masks")
    assert DetectionSelfTraining(detector=DetectorConfig(name="fcn")).fields == ("semantic",)
    assert "multiple of 32" in str(Detection().unsupported_model(ModelConfig(name="resnet_18"), 100))
