"""Sound of clips: KEY.wav beside the first frame of a clip, and the log-mel spectrograms that are made of it.

FOLDER/SPLIT/features-%06d.npy is float16 (clips, mels * times), zeros for a clip without sound; FOLDER/SPLIT/usable.npy
is bool (clips of the split,).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from sslscale.data.features import Features
from sslscale.data.shard import Shard, members_named
from sslscale.data.wav import decode_wav
from sslscale.settings.sound import SoundConfig
from sslscale.shapes import Float

FLOOR = 1e-10  # of the power, before its logarithm
MISSING, EMPTY, USED = "missing", "empty", "used"


class Spectra(Features):
    """Spectrograms, read as features are; samples of shards are frames, of which `frames` are a clip."""

    def __init__(self, folder: Path, splits: tuple[str, ...], mels: int, frames: int):
        super().__init__(folder, splits)
        self.mels, self.frames = mels, frames

    def take(self, shard: np.ndarray, row: np.ndarray) -> np.ndarray:
        """The spectrograms of the clips that begin at these rows, float32 (n, mels, times)."""
        return super().take(shard, row // self.frames).reshape(len(shard), self.mels, -1)


def read_sounds(shard: Shard, frames: int) -> list[tuple[np.ndarray, int] | None]:
    """Samples, float32 from -1 to 1 of one channel, and their rate, of each clip of a shard; None for one without.

    Raises DataError for sound that is damaged.
    """
    found, data = members_named(shard, "wav")
    sounds = []
    for key in list(shard.keys)[::frames]:
        one = found.get(key)
        raw = None if one is None else bytes(data[one.offset : one.offset + one.size])
        sounds.append(None if raw is None else decode_wav(raw, f"{shard.path}: {key}.wav"))
    return sounds


def mel_filters(mels: int, bins: int, rate: int, low: float) -> Float[torch.Tensor, "mels bins"]:
    """Triangles of height 1 that overlap by half, equally wide on the mel scale of HTK: 2595 log10(1 + f / 700)."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = torch.linspace(2595 * math.log10(1 + low / 700), top, mels + 2, dtype=torch.float64)
    hertz = 700 * (10 ** (edges / 2595) - 1)
    frequency = torch.linspace(0, rate / 2, bins, dtype=torch.float64)
    rising = (frequency - hertz[:-2, None]) / (hertz[1:-1] - hertz[:-2])[:, None]
    falling = (hertz[2:, None] - frequency) / (hertz[2:] - hertz[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0).float()


def spectrogram(samples: np.ndarray, rate: int, times: int, config: SoundConfig) -> Float[torch.Tensor, "mels times"]:
    """The log-mel spectrogram of a clip, at `times` equally distant moments: the middle of each part of the clip."""
    size = round(config.window * rate)
    bins = 1 << max(size - 1, 1).bit_length()
    power_size = max(bins, 512)
    signal = torch.from_numpy(np.ascontiguousarray(samples, np.float32))
    middle = ((torch.arange(times, dtype=torch.float64) + 0.5) * len(signal) / times).round().long()
    padded = torch.nn.functional.pad(signal, (size // 2, size - size // 2))
    windows = padded[middle[:, None] + torch.arange(size)] * torch.hann_window(size)
    power = torch.fft.rfft(windows, power_size).abs().square()
    filters = mel_filters(config.mels, power.shape[1], rate, config.low)
    return (filters @ power.T).clamp(min=FLOOR).log()
