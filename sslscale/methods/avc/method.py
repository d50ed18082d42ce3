"""Audio-visual correspondence (arXiv:1705.08168), with AVE-Net's head or L3-Net's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import in_float32, mean_over_kept
from sslscale.methods.avc import AVC
from sslscale.methods.image_sound import ImageSoundMethod, foreign, of_other_video
from sslscale.methods.method import Losses, Picture
from sslscale.nn.batch_norm import statistics_kept
from sslscale.nn.sound_towers import distances
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float, Int


class AVCMethod(ImageSoundMethod):
    """Two towers, and a classifier of pairs: 1 for a frame and its own sound, 0 for a foreign one."""

    settings: AVC

    def __init__(self, settings: AVC, model: ModelConfig):
        super().__init__(settings, model)
        dim, hidden = settings.sound.embed_dim, settings.sound.hidden
        if settings.fusion == "distance":
            self.head: nn.Module = nn.Linear(1, 2)
            with torch.no_grad():  # a small distance speaks for a true pair
                self.head.weight.copy_(torch.tensor([[1.0], [-1.0]]))
                self.head.bias.copy_(torch.tensor([-1.0, 1.0]))
        else:
            self.head = nn.Sequential(nn.Linear(2 * dim, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def place(
        self, draws: Float[Tensor, "batch draws"], frames: int
    ) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
        """Where the window of sound begins, and a frame within it."""
        window = self.settings.window
        start = (draws[:, 0] * (frames - window + 1)).long()
        return start, start + (draws[:, 1] * window).long()

    def logits(
        self, images: Float[Tensor, "batch dim"], sounds: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch 2"]:
        """Of foreign and of true, for each pair."""
        if self.settings.fusion == "distance":
            return self.head(distances(images, sounds)[:, None])
        return self.head(torch.cat([images, sounds], 1))

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        clips, draws = batch["images"], drawn["draws"]
        start, frame = self.place(draws, clips.views[0].shape[1])
        images = self.towers.embed_frames(self.see(clips, frame))
        sounds = self.towers.embed_sounds(self.hear(clips, start, draws[:, 2]))
        true, false = self.logits(images, sounds), self.logits(images, foreign(sounds))
        usable = of_other_video(clips)
        of_true, of_false = pair_losses(true, false)
        loss = (distributed.mean(of_true) + mean_over_kept(of_false, usable)) / 2
        with torch.no_grad():
            own = distributed.mean((true.argmax(1) == 1).float())
            other = mean_over_kept((false.argmax(1) == 0).float(), usable)
        parts = {
            "loss": loss.detach(),
            "pair_accuracy": (own + other) / 2,
            "true_accuracy": own,
            "foreign_accuracy": other,
        }
        return Losses(loss, parts, images.detach())

    @torch.no_grad()
    def pictures(self, batch: Mapping[str, Batch]) -> list[Picture]:
        clips, draws = batch["images"], self.draw(batch)["draws"]
        start, frame = self.place(draws, clips.views[0].shape[1])
        frames, heard = self.see(clips, frame), self.hear(clips, start, draws[:, 2])
        with statistics_kept(self):
            images, sounds = self.towers.embed_frames(frames), self.towers.embed_sounds(heard)
            true, false = (self.logits(images, x).softmax(1)[:, 1] for x in (sounds, foreign(sounds)))
        words = [f"its own sound: {x:.0%}; a foreign one: {y:.0%}" for x, y in zip(true, false, strict=True)]
        return self.rows(frames, [heard], words)


@in_float32
def pair_losses(
    true: Float[Tensor, "batch 2"], false: Float[Tensor, "batch 2"]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Cross-entropy of each clip's true pair, and of its foreign one."""
    ones = torch.ones(len(true), dtype=torch.int64, device=true.device)
    return F.cross_entropy(true, ones, reduction="none"), F.cross_entropy(false, 0 * ones, reduction="none")
