"""DINOv2: DINO on class tokens, its like on masked patches, and class tokens spread evenly (arXiv:2304.07193)."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data import rng
from sslscale.data.batch import Batch
from sslscale.data.transfer import to_device
from sslscale.losses import cross_view_entropy, in_float32, soft_cross_entropy, warm_temperature
from sslscale.methods.dinov2 import DINOv2
from sslscale.methods.method import Losses, Method, StepInfo
from sslscale.nn.classifier import build_vit
from sslscale.nn.ema import cosine_momentum, update_ema
from sslscale.nn.heads import PrototypeHead
from sslscale.nn.masks import BLOCK_DRAWS, block_masks
from sslscale.nn.multi_crop import encode_views
from sslscale.nn.sinkhorn import sinkhorn, usage_entropy
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Bool, Float


def ibot_loss(
    student: Float[Tensor, "patches prototypes"],
    target: Float[Tensor, "patches prototypes"],
    masked: Bool[Tensor, "images tokens"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Section 4: the cross-entropy of each masked patch (given row by row), an image's mean, summed over images and
    divided by all of them, masked or not, as in the authors' code. `masked` is on the host."""
    weight = to_device(patch_weights(masked), student.device)
    return _weighed(student, target, weight, temperature) * (distributed.share(len(masked)) / len(masked))


def patch_weights(masked: Bool[Tensor, "images tokens"]) -> Float[Tensor, " patches"]:
    """1 / the number of its image's masked patches, for each masked patch."""
    return (1 / masked.sum(1).clamp(min=1))[:, None].expand_as(masked)[masked]


def _weighed(student: Tensor, target: Tensor, weight: Tensor, temperature: float) -> Float[Tensor, ""]:
    return (weight * soft_cross_entropy(student / temperature, target.detach())).sum()


@in_float32
def koleo_loss(features: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """Section 4: -mean_i log(distance of z_i to its nearest neighbour among all workers' images), of rows of length 1.

    Sablayrolles et al. 2019, arXiv:1806.03198.
    """
    mine = F.normalize(features.float(), dim=1, eps=1e-8)
    every = distributed.gather(mine)
    with torch.no_grad():
        cosines = mine @ every.T
        place = distributed.rows(len(mine)).start + torch.arange(len(mine), device=mine.device)
        nearest = cosines.scatter(1, place[:, None], -2.0).argmax(1)
    return -distributed.mean(torch.log(F.pairwise_distance(mine, every[nearest], eps=1e-8) + 1e-8))


@in_float32
def gram_loss(
    student: Float[Tensor, "images patches width"], anchor: Float[Tensor, "images patches width"]
) -> Float[Tensor, ""]:
    """The mean squared difference of the cosines between an image's patches, the mean over images (DINOv3,
    arXiv:2508.10104, section 4.2); no gradient reaches the anchor."""
    x, g = (F.normalize(features.float(), dim=2) for features in (student, anchor.detach()))
    return distributed.mean((x @ x.mT - g @ g.mT).square().mean((1, 2)))


class DINOv2Method(Method):
    """A student and a teacher, each a ViT, a head for class tokens, one for patches; the teacher's ViT is kept."""

    centers: Tensor
    anchored = False  # whether the Gram teacher has a say

    def __init__(self, settings: DINOv2, model: ModelConfig):
        super().__init__()
        self.settings = settings
        model = dataclasses.replace(model, pool="cls")
        self.backbone, width = build_vit(model)
        norms = (settings.norm,) if settings.shared_head else (settings.norm, False)
        self.heads = nn.ModuleList(self._head(width, norm) for norm in norms)
        teacher, _ = build_vit(dataclasses.replace(model, survival=1.0))
        teacher.load_state_dict(self.backbone.state_dict())
        heads = nn.ModuleList(self._head(width, norm) for norm in norms)
        heads.load_state_dict(self.heads.state_dict())
        self.teacher, self.teacher_heads = teacher.requires_grad_(False), heads.requires_grad_(False)
        self.mask_token = nn.Parameter(torch.zeros(width))
        if settings.centering == "mean":
            self.register_buffer("centers", torch.zeros(2, settings.prototypes))
        self.anchor = copy.deepcopy(self.teacher) if settings.gram else None

    def _head(self, width: int, norm: bool) -> PrototypeHead:
        settings = self.settings
        return PrototypeHead(width, settings.hidden, settings.bottleneck, settings.prototypes, norm=norm)

    @property
    def frozen(self) -> tuple[Tensor, ...]:
        if self.step_info.epoch >= self.settings.freeze_last:
            return ()
        return tuple(head.last.weight for head in self.heads)  # pyright: ignore[reportAttributeAccessIssue, reportReturnType]

    def draw(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """Which patches are masked, where they stand among all tokens, and how much each weighs."""
        images = batch["images"]
        masked = self._masks(images, images.views[0].shape[-1] // self.backbone.patch)
        found = {"masked": masked, "places": self.backbone.places(masked), "weights": patch_weights(masked)}
        if self.anchored:
            found["patches"] = masked.flatten().nonzero()[:, 0]
        return {name: to_device(value, images.index.device) for name, value in found.items()}

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        views, settings = batch["images"].views, self.settings
        both = torch.cat(views[:2])
        masked, places = drawn["masked"], drawn["places"]
        temperature = warm_temperature(
            settings.teacher_temperature,
            settings.final_teacher_temperature,
            settings.warmup_epochs,
            self.step_info.epoch,
        )
        with torch.no_grad():
            cls, patches = self.teacher.masked_tokens(both, masked, places=places)
            targets = self._targets(self.teacher_heads[0](cls), 0, temperature)
            patch_targets = self._targets(self.teacher_heads[-1](patches), 1, temperature)
        gram = None
        if self.anchored and self.anchor is not None:
            cls, every = self.backbone.every_token(both, masked, self.mask_token)
            patches = every.flatten(0, 1).index_select(0, drawn["patches"])
            with torch.no_grad():
                anchor = self.anchor.tokens(both)[1]
            gram = gram_loss(every, anchor)
        else:
            cls, patches = self.backbone.masked_tokens(both, masked, self.mask_token, places=places)
        features = [*cls.chunk(2), *encode_views(self.backbone, views[2:])]
        student = self.heads[0](torch.cat(features)).chunk(len(views))
        global_loss = cross_view_entropy(student, targets.chunk(2), settings.student_temperature)
        hidden = self.heads[-1](patches)
        ibot = _weighed(hidden, patch_targets, drawn["weights"], settings.student_temperature)
        ibot = ibot * (distributed.share(len(masked)) / len(masked))
        koleo = koleo_loss(features[0]) + koleo_loss(features[1])
        loss = global_loss + settings.ibot * ibot + settings.koleo * koleo
        parts = {"dino": global_loss, "ibot": ibot, "koleo": koleo}
        if gram is not None:
            loss = loss + settings.gram * gram
            parts["gram"] = gram
        parts["loss"] = loss
        parts = {name: value.detach() for name, value in parts.items()}
        parts["prototype_entropy"] = usage_entropy(targets)
        return Losses(loss, parts, features[0].detach())

    def _targets(self, outputs: Tensor, which: int, temperature: float) -> Float[Tensor, "rows prototypes"]:
        """What the student shall say of class tokens (0) or of masked patches (1)."""
        if self.settings.centering == "sinkhorn":
            return sinkhorn(outputs, temperature, self.settings.iterations)
        outputs = outputs.float()
        targets = ((outputs - self.centers[which]) / temperature).softmax(1)
        if self.training:
            sums = torch.cat([outputs.sum(0), outputs.new_full((1,), float(len(outputs)))])
            sums = distributed.all_sum(sums)
            self.centers[which].lerp_(sums[:-1] / sums[-1].clamp(min=1), 1 - self.settings.center_momentum)
        return targets

    def before_step(self, step_info: StepInfo) -> None:
        """Take the teacher as it is for the Gram teacher, when the anchoring begins and each time it is renewed."""
        super().before_step(step_info)
        settings, step, progress = self.settings, step_info.step, step_info.progress
        if self.anchor is None or progress < settings.gram_from:
            return
        self.anchored = True
        first = math.ceil(settings.gram_from * step / progress - 1e-6) if step else 0
        if step == first or (settings.gram_every and (step - first) % settings.gram_every == 0):
            update_ema(self.anchor, self.teacher, 0.0, buffers=False)

    def _masks(self, images: Batch, side: int) -> Bool[Tensor, "images patches"]:
        """Which patches of both global views are masked, on the host: it follows from the step and the image."""
        settings = self.settings
        index = images.host_index
        every = []
        for view in range(2):
            draws = rng.uniforms(
                rng.stream_seed(view, "masks"), torch.full_like(index, self.step_info.step), index, BLOCK_DRAWS
            )
            every.append(block_masks(draws, side, settings.masked_images, settings.masked_patches))
        return torch.cat(every)

    def after_step(self, step: int, progress: float) -> None:
        momentum = cosine_momentum(self.settings.momentum, progress)
        update_ema(self.teacher, self.backbone, momentum, buffers=False)
        update_ema(self.teacher_heads, self.heads, momentum, buffers=False)

    @property
    def result(self) -> nn.Module:
        return self.teacher
