"""Frames and sounds in one space: their embeddings, and how well a shift between them is found."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sslscale.nn.sound_towers import SoundTowers, cut, distances
from sslscale.shapes import Float


class FrameTower(nn.Module):
    """The image tower alone, on frames one after another: an embedding for each `frames` of them."""

    def __init__(self, towers: SoundTowers):
        super().__init__()
        self.towers = towers

    def forward(self, x: Float[Tensor, "frames 3 h w"]) -> Float[Tensor, "batch dim"]:
        return self.towers.embed_frames(x.unflatten(0, (-1, self.towers.config.frames)))


@torch.inference_mode()
def embed_windows(
    towers: SoundTowers, sound: Float[Tensor, "clips mels times"], frames: int, batch_size: int, device: torch.device
) -> Float[Tensor, "clips starts dim"]:
    """Embeddings of all windows of clips of `frames` frames, one for each frame that a window can begin with."""
    window = towers.config.window
    found = []
    for part in sound.split(batch_size):
        on_device = part.to(device)
        own = [
            towers.embed_sounds(cut(on_device, torch.full((len(part),), start, device=device), window, frames))
            for start in range(frames - window + 1)
        ]
        found.append(torch.stack(own, 1))
    return torch.cat(found)


class Shifts(NamedTuple):
    """How often the right shift is found: exactly, within the tolerance, and both by chance."""

    exact: float
    within: float
    chance_exact: float
    chance_within: float


def find_shifts(
    images: Float[Tensor, "clips dim"], sounds: Float[Tensor, "clips starts dim"], true: int, tolerance: int
) -> Shifts:
    """Of each clip the nearest window of its sound, against the one that belongs to its frames, number `true`."""
    starts = sounds.shape[1]
    nearest = distances(images[:, None].expand_as(sounds), sounds).argmin(1)
    off = (nearest - true).abs()
    usable = sum(abs(start - true) <= tolerance for start in range(starts))
    return Shifts(
        float((off == 0).float().mean()), float((off <= tolerance).float().mean()), 1 / starts, usable / starts
    )
