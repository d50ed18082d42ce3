"""Windows of five frames of a clip, drawn by their motion (Misra et al. 2016, arXiv:1603.08561, section 3.1)."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

from sslscale.data.transfer import to_device
from sslscale.errors import ConfigError
from sslscale.methods.method import Losses
from sslscale.methods.pretext import Task, hashed
from sslscale.settings.kinds import FrameWindows
from sslscale.shapes import Float, Int


def windows(frames: int, spread: int, gap: int) -> Int[Tensor, "windows 5"]:
    """All a < b < c < d < e of a clip that FrameWindows allows, int64; raises ConfigError if there is none."""
    found = [
        (b - before, b, c, d, d + after)
        for b in range(frames)
        for d in range(b + 2 * gap, min(b + spread, frames - 1) + 1)
        for c in range(b + gap, d - gap + 1)
        for before, after in product(range(gap, 2 * gap + 1), repeat=2)
        if b - before >= 0 and d + after < frames
    ]
    if not found:
        raise ConfigError(
            f"method.gap: clips of {frames} frames hold no five frames with gaps of {gap}: pack clips of {4 * gap + 1} "
            "frames or more (data.video.frames)"
        )
    return torch.tensor(found)


def squared_distances(clips: Float[Tensor, "batch frames 3 h w"]) -> Float[Tensor, "batch frames frames"]:
    """Mean squared difference of all pairs of frames of a clip."""
    flat = clips.float().flatten(2)
    flat = flat - flat.mean(1, keepdim=True)  # or all digits would go into what the frames share
    products = flat @ flat.transpose(1, 2)
    norms = products.diagonal(dim1=1, dim2=2)
    return ((norms[:, :, None] + norms[:, None] - 2 * products) / flat.shape[2]).clamp(min=0)


def draw_windows(
    clips: Float[Tensor, "batch frames 3 h w"],
    every: Int[Tensor, "windows 5"],
    distinct: float,
    draws: Float[Tensor, " batch"],
) -> Int[Tensor, "batch 5"]:
    """A window of each clip, with a probability that is proportional to the mean motion from its b to its d.

    Motion is the root of the mean squared difference of one frame and the next, where the paper has optical flow.
    """
    apart = squared_distances(clips).sqrt()
    motion = torch.cat([apart.new_zeros(len(apart), 1), apart.diagonal(offset=1, dim1=1, dim2=2).cumsum(1)], 1)
    a, b, c, d, e = every.unbind(1)
    weight = (motion[:, d] - motion[:, b]) / (d - b) + 1e-6
    least = distinct * motion[:, -1:] / (clips.shape[1] - 1)
    alike = (apart[:, a, c] < least) | (apart[:, e, c] < least)
    gumbel = -torch.log(-torch.log(hashed(draws, len(every)).clamp(1e-6, 1 - 1e-6)))
    return every[(weight.log() - 1e4 * alike + gumbel).argmax(1)]


def take(
    clips: Float[Tensor, "batch frames *frame"], chosen: Int[Tensor, "batch n"]
) -> Float[Tensor, "batch n *frame"]:
    """These frames of each clip, or what was made of each."""
    return clips[torch.arange(len(clips), device=clips.device)[:, None], chosen]


class FrameTask(Task):
    """A task on windows of clips: three frames through the backbone, their features side by side, two classes."""

    num_draws = 4

    def __init__(self, settings: FrameWindows, width: int):
        super().__init__()
        self.settings = settings
        hidden = settings.hidden
        layers = (
            [nn.Linear(3 * width, hidden), nn.ReLU(), nn.Linear(hidden, 2)] if hidden else [nn.Linear(3 * width, 2)]
        )
        self.head = nn.Sequential(*layers)
        self._windows: dict[tuple[int, torch.device], Tensor] = {}

    def window(
        self, clips: Float[Tensor, "batch frames 3 h w"], draws: Float[Tensor, "batch draws"]
    ) -> Int[Tensor, "batch 5"]:
        """The window of each clip in this step."""
        key = clips.shape[1], clips.device
        if key not in self._windows:
            found = windows(clips.shape[1], self.settings.spread, self.settings.gap)
            self._windows[key] = to_device(found, clips.device)
        return draw_windows(clips, self._windows[key], self.settings.distinct, draws[:, 0])

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, backbone: nn.Module, view: Float[Tensor, "batch frames 3 h w"], draws: Float[Tensor, "batch draws"]
    ) -> Losses:
        raise TypeError(f"{type(self).__name__} has no loss")
