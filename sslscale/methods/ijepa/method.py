"""I-JEPA: a teacher's features of hidden blocks are told from the rest of the image (arXiv:2301.08243)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.data.transfer import to_device
from sslscale.losses import in_float32
from sslscale.methods.ijepa import IJEPA
from sslscale.methods.method import Losses, Method
from sslscale.nn.blocks_of_patches import draw_places, draw_sizes
from sslscale.nn.classifier import build_vit
from sslscale.nn.ema import linear_momentum, update_ema
from sslscale.nn.positions import sincos_positions
from sslscale.nn.vit_blocks import Block, initialize_linear, patch_pixels
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float, Int


@in_float32
def feature_loss(
    predicted: Float[Tensor, "batch targets patches width"], target: Float[Tensor, "batch targets patches width"]
) -> Float[Tensor, ""]:
    """Smooth L1 (beta 1) of the predicted features, over all of them, as in the authors' code; the paper has L2."""
    error = F.smooth_l1_loss(predicted.float(), target.detach().float(), reduction="none")
    return distributed.mean(error.flatten(1).mean(1))


class Predictor(nn.Module):
    """A narrow ViT that tells the features in one block of places from those of the patches seen (section 3)."""

    positions: Tensor

    def __init__(self, features: int, width: int, depth: int, grid: int):
        super().__init__()
        self.embed = nn.Linear(features, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.blocks = nn.ModuleList(Block(width, width // 32, 0.0, None) for _ in range(depth))
        self.norm, self.features = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, features)
        for part in (self.embed, self.blocks, self.features):
            initialize_linear(part)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.register_buffer("positions", sincos_positions(width, grid)[0, 1:].clone(), persistent=False)

    def forward(
        self,
        tokens: Float[Tensor, "batch seen features"],
        seen: Int[Tensor, "batch seen"],
        targets: Int[Tensor, "batch targets patches"],
    ) -> Float[Tensor, "batch targets patches features"]:
        """Each target block is predicted on its own."""
        known = self.embed(tokens) + self.positions[seen]
        asked = (self.mask_token + self.positions[targets]).to(known.dtype).flatten(0, 1)
        x = torch.cat([known.repeat_interleave(targets.shape[1], 0), asked], 1)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        found = self.features(self.norm(last(x, slice(seen.shape[1], None))))
        return found.unflatten(0, targets.shape[:2])


class IJEPAMethod(Method):
    """A ViT of the context, a predictor, and a teacher of the whole image, which is kept; positions are fixed."""

    def __init__(self, settings: IJEPA, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_vit(model, fixed_positions=True)
        still, _ = build_vit(dataclasses.replace(model, survival=1.0), fixed_positions=True)
        self.teacher = still.requires_grad_(False)
        self.teacher.load_state_dict(self.backbone.state_dict())
        self.predictor = Predictor(width, settings.width, settings.depth, self.backbone.grid)

    def draw(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """Which patches the student sees, and which it is asked for."""
        settings, images, side = self.settings, batch["images"], self.backbone.grid
        step = self.step_info.step
        sizes = draw_sizes(step, side, settings.context, settings.target, settings.aspect, settings.targets)
        seen, targets = draw_places(step, images.host_index, side, sizes, settings.targets)
        device = images.index.device
        return {"seen": to_device(seen, device), "targets": to_device(targets, device)}

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        (view,) = batch["images"].views
        seen, targets = drawn["seen"], drawn["targets"]
        rows = torch.arange(len(view), device=view.device)[:, None]
        with torch.no_grad():
            whole = self.teacher.tokens(view)[1].float()
            wanted = F.layer_norm(whole, whole.shape[-1:])[rows[..., None], targets]
        tokens = self.backbone(patch_pixels(view, self.backbone.patch)[rows, seen], seen)[:, 1:]
        loss = feature_loss(self.predictor(tokens, seen, targets), wanted)
        return Losses(loss, {"loss": loss.detach()}, whole.mean(1))

    def after_step(self, step: int, progress: float) -> None:
        update_ema(self.teacher, self.backbone, linear_momentum(self.settings.momentum, progress), buffers=False)

    @property
    def result(self) -> nn.Module:
        return self.teacher
