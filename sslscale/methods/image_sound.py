"""What AVC and AVTS have in common: a tower for frames, a tower for sound, and windows of clips."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.errors import ConfigError
from sslscale.methods.frames import take
from sslscale.methods.method import Method, Picture
from sslscale.methods.pretext import uniforms
from sslscale.nn.sound_towers import build_sound_towers, cut
from sslscale.settings.kinds import ImageSound
from sslscale.settings.model import ModelConfig
from sslscale.settings.sound import SoundInfo
from sslscale.settings.train import TrainConfig
from sslscale.shapes import Float, Int


class ImageSoundMethod(Method):
    """Two towers, trained on clips with sound. The checkpoint holds both."""

    frames = 1  # that the image tower sees at once
    num_draws = 4
    mean: Tensor
    std: Tensor

    def __init__(self, settings: ImageSound, model: ModelConfig):
        super().__init__()
        self.settings = settings
        info = SoundInfo(tower=settings.sound, frames=self.frames, window=settings.window)
        self.towers = build_sound_towers(model, info)
        self.register_buffer("mean", torch.zeros(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.ones(3, 1, 1), persistent=False)

    def prepare(self, num_images: Mapping[str, int], config: TrainConfig, scratch: object = None) -> None:
        super().prepare(num_images, config)
        self.mean.copy_(torch.tensor(config.image.mean).view(3, 1, 1))
        self.std.copy_(torch.tensor(config.image.std).view(3, 1, 1))

    def draw(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        clips = batch["images"]
        self.check(clips.views[0].shape[1])
        return {"draws": uniforms(clips, self.seed, self.step_info.step, "sound", self.num_draws)}

    def check(self, frames: int) -> None:
        """Raise ConfigError if clips of so many frames are too short."""
        if frames < self.settings.window:
            raise ConfigError(
                f"method.window: is {self.settings.window} frames, but clips have {frames}: see data.video.frames"
            )

    def hear(
        self, clips: Batch, start: Int[Tensor, " batch"], draw: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch mels part"]:
        """The windows of sound that begin at these frames, each at a loudness of its own."""
        gain = 1 + self.settings.gain * (2 * draw - 1)
        found = cut(clips.sound, start, self.settings.window, clips.views[0].shape[1])
        return found + 2 * gain.log()[:, None, None]  # the spectrogram is that of the power

    def see(self, clips: Batch, start: Int[Tensor, " batch"]) -> Float[Tensor, "batch frames 3 h w"]:
        """The frames of each clip from these on that the image tower sees at once."""
        chosen = start[:, None] + torch.arange(self.frames, device=start.device)
        return take(clips.views[0], chosen)

    def rows(
        self,
        frames: Float[Tensor, "batch frames 3 h w"],
        sounds: list[Float[Tensor, "batch mels part"]],
        words: list[str],
    ) -> list[Picture]:
        """A row of the report for each clip: frames, then spectrograms."""
        shown = (frames.float() * self.std + self.mean).clamp(0, 1)
        rows = []
        for number, caption in enumerate(words):
            spectra = [picture(sound[number]) for sound in sounds]
            rows.append(Picture([*shown[number][:: max(self.frames // 4, 1)], *spectra], caption))
        return rows

    @property
    def result(self) -> nn.Module:
        return self.towers


def foreign(x: Tensor) -> Tensor:
    """For each row (batch, ...) that of the next clip of the global batch, differentiable."""
    every = distributed.gather(x.contiguous())
    place = distributed.rows(len(x)).start + torch.arange(len(x), device=x.device)
    return every[(place + 1) % len(every)]


def of_other_video(clips: Batch) -> Float[Tensor, " batch"]:
    """1 for each clip whose next one in the global batch is of another video, else 0."""
    return (foreign(clips["video"]) != clips["video"]).float()


def picture(sound: Float[Tensor, "mels times"]) -> Float[Tensor, "3 mels times"]:
    """A spectrogram as a gray image from 0 to 1, low tones at the bottom."""
    low, high = sound.min(), sound.max()
    return ((sound - low) / (high - low).clamp(min=1e-6)).flip(0).float().expand(3, -1, -1)
