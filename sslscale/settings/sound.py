"""Settings of sound: its spectrograms, the network that hears it, and retrieval between frames and sound."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sslscale.config import require


@dataclass(frozen=True, kw_only=True)
class SoundConfig:
    """How the sound of a clip becomes a log-mel spectrogram.

    Power spectra of windows of `window` seconds are summed by `mels` triangular filters on the mel scale of HTK, from
    `low` Hz to half the sampling rate, and the natural logarithm is taken. `columns` of them belong to each frame of
    the video. A clip without sound is unusable: `on_missing` raises an error or skips the clip; both are counted.
    """

    mels: int = 64
    columns: int = 12
    window: float = 0.025
    low: float = 60.0
    on_missing: Literal["error", "skip"] = "error"
    splits: tuple[str, ...] = ("labeled", "unlabeled", "test")
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.mels >= 8, "mels", "must be 8 or more")
        require(self.columns >= 1, "columns", "must be 1 or more")
        require(self.window > 0, "window", "must be positive")
        require(self.low >= 0, "low", "must be 0 or more")
        require(len(self.splits) > 0, "splits", "must name at least one split")


@dataclass(frozen=True, kw_only=True)
class SoundTowerConfig:
    """The network that hears spectrograms (Arandjelovic & Zisserman 2017, arXiv:1705.08168), and the shared space.

    Each of `widths` is a block of two 3x3 convolutions with batch norm; after each the spectrogram is halved, after
    the last it is reduced to its maxima in `times` equal parts of the time. Two linear layers, the first of `hidden`
    features, take either tower to the `embed_dim` dimensions of the shared space (arXiv:1712.06651).
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    times: int = 1
    hidden: int = 128
    embed_dim: int = 128

    def __post_init__(self) -> None:
        require(0 < len(self.widths) <= 5, "widths", "must name 1 to 5 blocks")
        require(all(width > 0 for width in self.widths), "widths", "must be positive")
        for name in ("times", "hidden", "embed_dim"):
            require(getattr(self, name) > 0, name, "must be positive")


@dataclass(frozen=True, kw_only=True)
class SoundInfo:
    """Both towers of a checkpoint: frames that the one sees, and how many frames' time of sound the other hears."""

    tower: SoundTowerConfig
    frames: int
    window: int


@dataclass(frozen=True, kw_only=True)
class SoundRetrievalConfig:
    """Retrieval between frames and sounds, in the middle of each clip of a split; and synchronisation, by the distances
    of the frames from all sounds of their own clip.

    A shift is found if it is right within `tolerance` frames.
    """

    split: str = "test"
    tolerance: int = 1
    batch_size: int = field(default=64, metadata={"identity": False})
    shown: int = 5
    seed: int = field(default=0, metadata={"hidden": True})
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        require(self.tolerance >= 0, "tolerance", "must be 0 or more")
        require(self.batch_size > 0, "batch_size", "must be positive")
