"""Frame interpolation: can a frame lie between two others?"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from sslscale import distributed
from sslscale.losses import mean_over_kept
from sslscale.methods.frames import FrameTask, take
from sslscale.methods.method import Losses, Picture
from sslscale.methods.pretext import PretextMethod, classify
from sslscale.shapes import Float, Int

KINDS = ("between", "outside", "foreign")


class InterpolationTask(FrameTask):
    """Start, end and a candidate that lies between them, outside, or in another clip of the batch."""

    def triples(
        self, view: Float[Tensor, "batch frames 3 h w"], draws: Float[Tensor, "batch draws"]
    ) -> tuple[Int[Tensor, "batch 3"], Int[Tensor, " batch"]]:
        """Start, end and candidate of each clip, and the kind of the candidate. A foreign one is the candidate of the
        next clip; here the clip's own c stands for it."""
        a, b, c, d, e = self.window(view, draws).unbind(1)
        foreign, outside = self.settings.foreign, self.settings.outside  # pyright: ignore[reportAttributeAccessIssue]
        kind = (draws[:, 1] < foreign + outside).long() + (draws[:, 1] < foreign).long()
        candidate = torch.where(kind == 1, torch.where(draws[:, 2] < 0.5, a, e), c)
        backwards = draws[:, 3] < 0.5
        start, end = torch.where(backwards, d, b), torch.where(backwards, b, d)
        return torch.stack([start, end, candidate], 1), kind

    def _features(
        self, backbone: nn.Module, frames: Float[Tensor, "batch 3 3 h w"], kind: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 width"]:
        features = backbone(frames.flatten(0, 1)).unflatten(0, (-1, 3))
        every = distributed.gather(features[:, 2].contiguous())
        place = distributed.rows(len(features)).start + torch.arange(len(features), device=features.device)
        other = every[(place + 1) % len(every)]
        last = torch.where((kind == 2)[:, None], other, features[:, 2])
        return torch.stack([features[:, 0], features[:, 1], last], 1)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, backbone: nn.Module, view: Float[Tensor, "batch frames 3 h w"], draws: Float[Tensor, "batch draws"]
    ) -> Losses:
        chosen, kind = self.triples(view, draws)
        features = self._features(backbone, take(view, chosen), kind)
        target = (kind == 0).long()
        logits = self.head(features.flatten(1))
        losses = classify(logits, target, features[:, 0])
        with torch.no_grad():
            right = (logits.argmax(1) == target).float()
            apart = {f"{name}_accuracy": mean_over_kept(right, (kind == n).float()) for n, name in enumerate(KINDS)}
        return dataclasses.replace(losses, parts={**losses.parts, **apart})

    def pictures(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, backbone: nn.Module, view: Float[Tensor, "batch frames 3 h w"], draws: Float[Tensor, "batch draws"]
    ) -> list[Picture]:
        chosen, kind = self.triples(view, draws)
        frames = take(view, chosen)
        said = self.head(self._features(backbone, frames, kind).flatten(1)).argmax(1).tolist()
        shown = self.pixels(frames)
        rows = []
        for number, (which, answer) in enumerate(zip(kind.tolist(), said, strict=True)):
            if which != 2 or distributed.world_size() == 1:
                last = shown[(number + 1) % len(shown), 2] if which == 2 else shown[number, 2]
                words = f"start, end, candidate ({KINDS[which]}); said {'between' if answer else 'not between'}"
                rows.append(Picture([shown[number, 0], shown[number, 1], last], words))
        return rows


class FrameInterpolationMethod(PretextMethod):
    """A backbone and a linear classifier of its features of three frames."""

    kind = InterpolationTask
