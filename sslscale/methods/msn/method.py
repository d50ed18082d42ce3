"""MSN: views with few patches are assigned to the prototypes of a whole one (arXiv:2204.07141)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.data.transfer import to_device
from sslscale.losses import in_float32, sharpen
from sslscale.methods.method import Losses, Method
from sslscale.methods.msn import MSN
from sslscale.nn.classifier import build_vit
from sslscale.nn.ema import linear_momentum, update_ema
from sslscale.nn.heads import mlp
from sslscale.nn.masks import patch_orders
from sslscale.nn.multi_crop import encode_views
from sslscale.nn.sinkhorn import sinkhorn, usage_entropy
from sslscale.nn.vit_blocks import patch_pixels
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


@in_float32
def assignments(
    z: Float[Tensor, "batch dim"], prototypes: Float[Tensor, "prototypes dim"], temperature: float
) -> Float[Tensor, "batch prototypes"]:
    """softmax(cos(z, prototype) / temperature) (section 3)."""
    cosines = F.normalize(z.float(), dim=1) @ F.normalize(prototypes.float(), dim=1).T
    return (cosines / temperature).softmax(1)


@in_float32
def msn_terms(
    anchors: Sequence[Float[Tensor, "batch prototypes"]], target: Float[Tensor, "batch prototypes"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The cross-entropy H(target, anchor), and the entropy of the mean anchor (equation 1), over all views and images
    of all workers."""
    logs = torch.stack([anchor.clamp(min=1e-12).log() for anchor in anchors])
    entropy = -distributed.mean((target.detach() * logs).sum(2).mean(0))
    mean = torch.stack([anchor.sum(0) for anchor in anchors]).mean(0)
    mean = distributed.all_sum(mean) / distributed.total(len(target))
    return entropy, torch.special.entr(mean).sum()


class MSNMethod(Method):
    """A student and a teacher, each a ViT and a projector, and prototypes; the teacher's ViT is kept."""

    def __init__(self, settings: MSN, model: ModelConfig):
        super().__init__()
        self.settings = settings
        model = dataclasses.replace(model, pool="cls")
        self.backbone, width = build_vit(model)
        sizes = [width, settings.hidden, settings.hidden, settings.projection]
        self.projector = mlp(sizes)
        still, _ = build_vit(dataclasses.replace(model, survival=1.0))
        still.load_state_dict(self.backbone.state_dict())
        projector = mlp(sizes)
        projector.load_state_dict(self.projector.state_dict())
        self.teacher = nn.Sequential(still, projector).requires_grad_(False)
        self.prototypes = nn.Parameter(torch.empty(settings.prototypes, settings.projection))
        nn.init.uniform_(self.prototypes, -(settings.projection**-0.5), settings.projection**-0.5)

    def draw(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """The patches that are kept of the first view, in an order drawn for each image."""
        images = batch["images"]
        view, index = images.views[0], images.host_index
        count = (view.shape[-1] // self.backbone.patch) ** 2
        kept = max(round(count * (1 - self.settings.dropped)), 1)
        order = patch_orders(self.step_info.step, index, count)
        return {"kept": to_device(order[:, :kept].contiguous(), view.device)}

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        first, second, *crops = batch["images"].views
        settings, kept = self.settings, drawn["kept"]
        with torch.no_grad():
            target = assignments(self.teacher(second), self.prototypes, settings.temperature)
            target = sharpen(target, settings.sharpening)
            if settings.iterations:
                target = sinkhorn(target.clamp(min=1e-30).log(), 1.0, settings.iterations)
        rows = torch.arange(len(first), device=first.device)[:, None]
        cls = self.backbone(patch_pixels(first, self.backbone.patch)[rows, kept], kept)[:, 0]
        features = [cls, *encode_views(self.backbone, crops)]
        z = self.projector(torch.cat(features))
        anchors = assignments(z, self.prototypes, settings.temperature).chunk(len(features))
        agreement, entropy = msn_terms(anchors, target)
        loss = agreement - settings.entropy * entropy
        parts = {"loss": loss, "cross_entropy": agreement, "mean_entropy": entropy}
        parts = {name: value.detach() for name, value in parts.items()}
        return Losses(loss, {**parts, "prototype_entropy": usage_entropy(target)}, cls.detach())

    def after_step(self, step: int, progress: float) -> None:
        momentum = linear_momentum(self.settings.momentum, progress)
        update_ema(self.teacher, nn.Sequential(self.backbone, self.projector), momentum, buffers=False)

    @property
    def result(self) -> nn.Module:
        return self.teacher[0]
