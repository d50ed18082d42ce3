"""An image tower and a sound tower that share a space (arXiv:1705.08168, arXiv:1712.06651)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale.nn.classifier import build_backbone
from sslscale.settings.model import ModelConfig
from sslscale.settings.sound import SoundInfo, SoundTowerConfig
from sslscale.shapes import Float


class SoundTower(nn.Module):
    """Blocks of two 3x3 convolutions, and the maxima of each part of the time."""

    def __init__(self, config: SoundTowerConfig):
        super().__init__()
        self.input = nn.BatchNorm2d(1)
        blocks: list[nn.Module] = []
        channels = 1
        for number, width in enumerate(config.widths):
            if number:
                blocks.append(nn.MaxPool2d(2, ceil_mode=True))  # a short spectrogram keeps its last column
            for _ in range(2):
                blocks += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveMaxPool2d((1, config.times))
        self.num_features = channels * config.times

    def forward(self, sound: Float[Tensor, "batch mels times"]) -> Float[Tensor, "batch features"]:
        return self.pool(self.blocks(self.input(sound[:, None]))).flatten(1)


class SoundTowers(nn.Module):
    """Embeddings of a few frames and of their sound, of length 1 in one space."""

    def __init__(self, backbone: nn.Module, width: int, config: SoundInfo):
        super().__init__()
        self.config = config
        self.backbone, self.sound = backbone, SoundTower(config.tower)
        self.image_head = _head(width * config.frames, config.tower)
        self.sound_head = _head(self.sound.num_features, config.tower)

    def embed_frames(self, frames: Float[Tensor, "batch frames 3 h w"]) -> Float[Tensor, "batch dim"]:
        """Embeddings of the frames that the image tower sees at once, float32."""
        features = self.backbone(frames.flatten(0, 1)).unflatten(0, (len(frames), -1))
        return F.normalize(self.image_head(features.flatten(1)).float(), dim=1)

    def embed_sounds(self, sound: Float[Tensor, "batch mels times"]) -> Float[Tensor, "batch dim"]:
        """Embeddings of windows of sound, float32."""
        return F.normalize(self.sound_head(self.sound(sound)).float(), dim=1)


def _head(width: int, config: SoundTowerConfig) -> nn.Module:
    return nn.Sequential(nn.Linear(width, config.hidden), nn.ReLU(), nn.Linear(config.hidden, config.embed_dim))


def build_sound_towers(model: ModelConfig, config: SoundInfo) -> SoundTowers:
    """Build both towers with first weights of torch's global generator."""
    return SoundTowers(*build_backbone(model), config)


def distances(x: Float[Tensor, "*n dim"], y: Float[Tensor, "*n dim"]) -> Float[Tensor, "*n"]:
    """Euclidean distances of pairs of rows, with a finite gradient where they are equal."""
    return ((x - y).square().sum(-1) + 1e-12).sqrt()


def cut(
    sound: Float[Tensor, "batch mels times"], start: Tensor, window: int, frames: int
) -> Float[Tensor, "batch mels part"]:
    """The sound of `window` frames of each clip from frame `start` (batch,) on; clips have `frames` frames."""
    columns = sound.shape[2] // frames
    place = start[:, None] * columns + torch.arange(window * columns, device=sound.device)
    return sound.gather(2, place[:, None].expand(-1, sound.shape[1], -1))
