"""Detectors and segmentation networks over any backbone: torchvision's, fed with canvases that are ready."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.ops import MultiScaleRoIAlign

from sslscale.nn.classifier import build_backbone
from sslscale.nn.pyramid import Pyramid, StageMaps
from sslscale.settings.detection import DetectorConfig
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float, Int

Targets = list[dict[str, Tensor]]  # of each image: boxes (n, 4), labels (n,), masks (n, h, w) if there are any
BACKGROUND = ("faster_rcnn", "mask_rcnn")  # detectors whose class 0 is no object


class _Canvas(GeneralizedRCNNTransform):
    """Images come normalised, and as large as they shall be."""

    def normalize(self, image: Tensor) -> Tensor:
        return image

    def resize(self, image: Tensor, target: Any = None) -> Any:
        return image, target


class OverBackbone(nn.Module):
    """A network above a backbone, which stays as it is if the settings say so."""

    def __init__(self, config: DetectorConfig):
        super().__init__()
        self.config = config

    @property
    def _maps(self) -> StageMaps:
        return next(module for module in self.modules() if isinstance(module, StageMaps))

    @property
    def backbone(self) -> nn.Module:
        """The network below."""
        return self._maps.backbone

    def features(self, x: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch features"]:
        """The backbone's pooled features of other images."""
        found = self.backbone(x)
        self._maps.forget()
        return found

    def freeze(self) -> None:
        """Let the backbone stay, if it is to be frozen."""
        if self.config.frozen:
            self.backbone.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> OverBackbone:
        super().train(mode)
        if self.config.frozen:
            self.backbone.eval()
        return self


class Detector(OverBackbone):
    """One of torchvision's detectors. In training mode it gives losses, else what it finds."""

    def __init__(self, config: DetectorConfig, backbone: nn.Module, size: int, num_classes: int):
        super().__init__(config)
        pyramid = Pyramid(backbone, size, config.width)
        self.model = _build(config, pyramid, num_classes)
        self.model.transform = _Canvas(size, size, [0.0] * 3, [1.0] * 3)
        self.freeze()

    def forward(self, x: Float[Tensor, "batch 3 size size"], targets: Targets | None = None) -> Any:
        """With targets a loss by name, else for each image boxes, scores, labels (from 0) and masks, if any."""
        shift = int(self.config.name in BACKGROUND)
        if targets is not None:
            return self.model(list(x), [{**t, "labels": t["labels"] + shift} for t in targets])
        found: Any = self.model(list(x))
        return [{**one, "labels": one["labels"] - shift} for one in found]


def _build(config: DetectorConfig, pyramid: Pyramid, num_classes: int) -> Any:
    names, strides = pyramid.names, pyramid.strides
    ratios = ((0.5, 1.0, 2.0),) * len(strides)
    anchors = AnchorGenerator(tuple((round(config.anchor * s),) for s in strides), ratios)
    if config.name in ("faster_rcnn", "mask_rcnn"):
        aligned = names[:-1] or names  # the coarsest map is for proposals alone
        parts: dict[str, Any] = {
            "rpn_anchor_generator": anchors,
            "box_roi_pool": MultiScaleRoIAlign(aligned, 7, 2),
            "box_head": TwoMLPHead(49 * config.width, config.hidden),
            "box_predictor": FastRCNNPredictor(config.hidden, num_classes + 1),
            "box_score_thresh": config.min_score,
            "box_batch_size_per_image": config.sampled,
            "rpn_batch_size_per_image": min(config.sampled, 256),
            "rpn_post_nms_top_n_train": 2 * config.proposals,
            "rpn_post_nms_top_n_test": config.proposals,
        }
        if config.name == "faster_rcnn":
            return FasterRCNN(pyramid, **parts)
        masks: dict[str, Any] = {
            "mask_roi_pool": MultiScaleRoIAlign(aligned, 14, 2),
            "mask_head": MaskRCNNHeads(config.width, (config.width,) * 4, 1),
            "mask_predictor": MaskRCNNPredictor(config.width, config.width, num_classes + 1),
        }
        return MaskRCNN(pyramid, **parts, **masks)
    if config.name == "fcos":
        single = AnchorGenerator(tuple((s,) for s in strides), ((1.0,),) * len(strides))
        return FCOS(pyramid, num_classes, anchor_generator=single, score_thresh=config.min_score)
    # three sizes an octave (Lin et al. 2017, arXiv:1708.02002)
    sizes = tuple(tuple(round(config.anchor / 2 * s * 2 ** (k / 3)) for k in range(3)) for s in strides)
    return RetinaNet(
        pyramid, num_classes, anchor_generator=AnchorGenerator(sizes, ratios), score_thresh=config.min_score
    )


class Segmenter(OverBackbone):
    """Gives each pixel a class: class 0 is none of them.

    `linear` is batch norm, dropout and one layer over the last map; `fcn` are torchvision's two convolutions over the
    sum of a feature pyramid's maps, scaled to the finest (Kirillov et al. 2019, arXiv:1901.02446).
    """

    def __init__(self, config: DetectorConfig, backbone: nn.Module, size: int, num_classes: int):
        super().__init__(config)
        if config.name == "fcn":
            self.maps: nn.Module = Pyramid(backbone, size, config.width)
            head = FCNHead(config.width, num_classes + 1)
            head[3] = nn.Dropout(config.dropout)
            self.head: nn.Module = head
        else:
            self.maps = StageMaps(backbone, size)
            width = self.maps.channels[-1]
            last = nn.Conv2d(width, num_classes + 1, 1)
            self.head = nn.Sequential(nn.BatchNorm2d(width), nn.Dropout2d(config.dropout), last)
            nn.init.normal_(last.weight, std=0.01)
            assert last.bias is not None
            nn.init.zeros_(last.bias)
        self.freeze()

    def forward(self, x: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch classes h w"]:
        """The logits of each pixel."""
        maps = self.maps(x)
        if self.config.name == "fcn":
            levels = list(maps.values())[:-1] or list(maps.values())
            last = levels[0]
            for level in levels[1:]:
                last = last + F.interpolate(level, last.shape[2:], mode="bilinear")
        else:
            last = maps[-1]
        return F.interpolate(self.head(last).float(), x.shape[2:], mode="bilinear")


def segmentation_loss(
    logits: Float[Tensor, "batch classes h w"], semantic: Int[Tensor, "batch h w"], ignored: int
) -> Float[Tensor, " batch"]:
    """The mean cross-entropy over each image's pixels that count; 0 if none does."""
    each = F.cross_entropy(logits, semantic, ignore_index=ignored, reduction="none")
    return each.sum((1, 2)) / (semantic != ignored).sum((1, 2)).clamp(min=1)


def build_detector(config: DetectorConfig, model: ModelConfig, num_classes: int) -> Detector | Segmenter:
    """Build the network with first weights of torch's global generator."""
    backbone, _ = build_backbone(model)
    # the size at which its maps are looked at; it trains and finds at any
    size = 4 * model.patch if model.patch else 224 if model.name.startswith(("timm:", "open_clip:")) else 64
    return (Segmenter if config.semantic else Detector)(config, backbone, size, num_classes)


def as_targets(
    boxes: Float[Tensor, "batch most 4"], labels: Int[Tensor, "batch most"], masks: Tensor | None = None
) -> Targets:
    """Boxes of a batch as torchvision takes them: those of each image alone. Crowds are left out."""
    found = []
    for n in range(len(boxes)):
        kept = torch.nonzero(labels[n] >= 0)[:, 0]
        one = {"boxes": boxes[n][kept], "labels": labels[n][kept]}
        if masks is not None:
            one["masks"] = masks[n][kept]
        found.append(one)
    return found
