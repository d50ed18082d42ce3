"""Shuffle & Learn: are three frames in the order of time? (arXiv:1603.08561)"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslscale.methods.frames import FrameTask, take
from sslscale.methods.method import Losses, Picture
from sslscale.methods.pretext import PretextMethod, classify
from sslscale.shapes import Float, Int


class OrderTask(FrameTask):
    """(b, c, d) against (b, a, d) and (b, e, d), forwards or backwards."""

    def triples(
        self, view: Float[Tensor, "batch frames 3 h w"], draws: Float[Tensor, "batch draws"]
    ) -> tuple[Int[Tensor, "batch 3"], Int[Tensor, " batch"]]:
        """Three frames of each clip as they are shown, and 1 for those in order, else 0."""
        a, b, c, d, e = self.window(view, draws).unbind(1)
        ordered = draws[:, 1] >= self.settings.negatives  # pyright: ignore[reportAttributeAccessIssue]
        middle = torch.where(ordered, c, torch.where(draws[:, 2] < 0.5, a, e))
        shown = torch.stack([b, middle, d], 1)
        return torch.where(draws[:, 3:4] < 0.5, shown, shown.flip(1)), ordered.long()

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, backbone: nn.Module, view: Float[Tensor, "batch frames 3 h w"], draws: Float[Tensor, "batch draws"]
    ) -> Losses:
        chosen, target = self.triples(view, draws)
        features = backbone(take(view, chosen).flatten(0, 1)).unflatten(0, (-1, 3))
        return classify(self.head(features.flatten(1)), target, features[:, 1])

    def pictures(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, backbone: nn.Module, view: Float[Tensor, "batch frames 3 h w"], draws: Float[Tensor, "batch draws"]
    ) -> list[Picture]:
        chosen, target = self.triples(view, draws)
        frames = take(view, chosen)
        said = self.head(backbone(frames.flatten(0, 1)).unflatten(0, (-1, 3)).flatten(1)).argmax(1)
        words = ("not in order", "in order")
        return [
            Picture(list(row), f"{words[truth]}; said {words[answer]}")
            for row, truth, answer in zip(self.pixels(frames), target.tolist(), said.tolist(), strict=True)
        ]


class ShuffleAndLearnMethod(PretextMethod):
    """A backbone and a linear classifier of its features of three frames."""

    kind = OrderTask
