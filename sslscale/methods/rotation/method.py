"""Rotation prediction: by how many quarters an image was turned (arXiv:1803.07728)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslscale.methods.method import Losses, Picture
from sslscale.methods.pretext import PretextMethod, Task, classify
from sslscale.methods.rotation import Rotation
from sslscale.shapes import Float

_TURNS = 4


def all_turns(images: Float[Tensor, "batch channels s s"]) -> Float[Tensor, "_ channels s s"]:
    """Every image by 0, 1, 2 and 3 quarters, counter-clockwise, the upright ones first; by transposing and mirroring
    alone, as interpolation would give the turn away."""
    return torch.cat([torch.rot90(images, turns, (2, 3)) for turns in range(_TURNS)])


class RotationTask(Task):
    """All four turns of an image are in one batch (section 2.2: better than one at random)."""

    def __init__(self, settings: Rotation, width: int):
        super().__init__()
        del settings
        self.head = nn.Linear(width, _TURNS)

    def forward(
        self, backbone: nn.Module, view: Float[Tensor, "batch channels h w"], draws: Float[Tensor, "batch draws"]
    ) -> Losses:
        features = backbone(all_turns(view))
        target = torch.arange(_TURNS, device=view.device).repeat_interleave(len(view))
        return classify(self.head(features), target, features[: len(view)])

    def pictures(
        self, backbone: nn.Module, view: Float[Tensor, "batch channels h w"], draws: Float[Tensor, "batch draws"]
    ) -> list[Picture]:
        turned = all_turns(view)
        found = self.head(backbone(turned)).argmax(1).view(_TURNS, -1)
        shown = self.pixels(turned).unflatten(0, (_TURNS, -1))
        rows = []
        for number in range(len(view)):
            said = ", ".join(f"{90 * turns}" for turns in found[:, number].tolist())
            rows.append(Picture(list(shown[:, number]), f"turned by 0, 90, 180, 270 degrees; said {said}"))
        return rows


class RotationMethod(PretextMethod):
    """A backbone and a linear classifier of turns."""

    kind = RotationTask
