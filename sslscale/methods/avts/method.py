"""Audio-visual temporal synchronisation (arXiv:1807.00230, section 2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.data.transfer import to_device
from sslscale.errors import ConfigError
from sslscale.losses import in_float32, mean_over_kept
from sslscale.methods.avts import AVTS
from sslscale.methods.image_sound import ImageSoundMethod, foreign, of_other_video
from sslscale.methods.method import Losses, Picture
from sslscale.methods.pretext import hashed
from sslscale.nn.batch_norm import statistics_kept
from sslscale.nn.sound_towers import distances
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float, Int


class AVTSMethod(ImageSoundMethod):
    """Two towers whose embeddings are near for frames and their own sound, and far for another one."""

    settings: AVTS

    def __init__(self, settings: AVTS, model: ModelConfig):
        self.frames = settings.window
        super().__init__(settings, model)

    def check(self, frames: int) -> None:
        super().check(frames)
        if frames < self.settings.window + self.settings.gap:
            raise ConfigError(
                f"method.gap: clips of {frames} frames hold no two windows of {self.settings.window} that are "
                f"{self.settings.gap} apart: pack longer ones (data.video.frames)"
            )

    def draw(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        drawn = super().draw(batch)
        share = self.settings.hard_share if self.step_info.progress >= self.settings.hard_from else 0.0
        return {**drawn, "share": to_device(torch.full((1,), share), drawn["draws"].device)}

    def place(
        self, draws: Float[Tensor, "batch draws"], frames: int
    ) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
        """Where the window of a clip begins, and that of a hard negative: any start that is far enough from it."""
        starts, gap = frames - self.settings.window + 1, self.settings.gap
        place = torch.arange(starts, device=draws.device)
        far = (place[:, None] - place).abs() >= gap
        usable = far.any(1)  # in a short clip those in the middle have no other
        rank = usable.cumsum(0) - 1
        number = (draws[:, 0] * usable.sum()).long()
        start = ((rank[None] == number[:, None]) & usable).float().argmax(1)
        other = torch.where(far[start], hashed(draws[:, 1], starts), -1.0).argmax(1)
        return start, other

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        clips, draws = batch["images"], drawn["draws"]
        start, other = self.place(draws, clips.views[0].shape[1])
        images = self.towers.embed_frames(self.see(clips, start))
        heard = torch.cat([self.hear(clips, start, draws[:, 2]), self.hear(clips, other, draws[:, 2])])
        sounds, shifted = self.towers.embed_sounds(heard).chunk(2)
        hard = draws[:, 3] < drawn["share"]
        near, moved, far = (distances(images, x) for x in (sounds, shifted, foreign(sounds)))
        usable = torch.where(hard, 1.0, of_other_video(clips))
        of_near, of_far = contrastive_losses(near, torch.where(hard, moved, far), self.settings.margin)
        loss = (distributed.mean(of_near) + mean_over_kept(of_far, usable)) / 2
        with torch.no_grad():
            parts = {
                "loss": loss.detach(),
                "pair_accuracy": distributed.mean((near < far).float()),
                "sync_accuracy": distributed.mean((near < moved).float()),
                "hard": distributed.mean(hard.float()),
            }
        return Losses(loss, parts, images.detach())

    @torch.no_grad()
    def pictures(self, batch: Mapping[str, Batch]) -> list[Picture]:
        clips, draws = batch["images"], self.draw(batch)["draws"]
        start, other = self.place(draws, clips.views[0].shape[1])
        frames = self.see(clips, start)
        own, moved = self.hear(clips, start, draws[:, 2]), self.hear(clips, other, draws[:, 2])
        with statistics_kept(self):
            images = self.towers.embed_frames(frames)
            near, far = (distances(images, self.towers.embed_sounds(x)) for x in (own, moved))
        shift = (other - start).tolist()
        words = [
            f"its sound at distance {x:.2f}; {n:+d} frames away {y:.2f}"
            for x, y, n in zip(near, far, shift, strict=True)
        ]
        return self.rows(frames, [own, moved], words)


@in_float32
def contrastive_losses(
    near: Float[Tensor, " batch"], far: Float[Tensor, " batch"], margin: float
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """d^2 of each pair that belongs together, and max(margin - d, 0)^2 of each that does not (equation 1)."""
    return near.square(), (margin - far).clamp(min=0).square()
