"""Tracking as supervision (arXiv:1505.00687, section 4)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.data.transfer import to_device
from sslscale.errors import ConfigError
from sslscale.losses import in_float32, mean_over_kept
from sslscale.methods.method import Losses, Method, Picture
from sslscale.methods.pretext import uniforms
from sslscale.methods.tracking import Tracking
from sslscale.methods.tracking.tracks import crop, follow, most_motion, moving_share, usable
from sslscale.nn.batch_norm import statistics_kept
from sslscale.nn.classifier import build_backbone
from sslscale.settings.model import ModelConfig
from sslscale.settings.train import TrainConfig
from sslscale.shapes import Bool, Float, Int


class TrackingMethod(Method):
    """A backbone and an embedding of patches."""

    mean: Tensor
    std: Tensor

    def __init__(self, settings: Tracking, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_backbone(model)
        self.head = nn.Sequential(
            nn.Linear(width, settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, settings.projection)
        )
        self.register_buffer("mean", torch.zeros(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.ones(3, 1, 1), persistent=False)

    def prepare(self, num_images: Mapping[str, int], config: TrainConfig, scratch: object = None) -> None:
        super().prepare(num_images, config)
        if self.settings.patch + 2 * self.settings.search > config.image.size:
            raise ConfigError(
                f"method.patch: patches of {self.settings.patch} pixels have no room to move, {self.settings.search} "
                f"pixels a frame, in images of {config.image.size}"
            )
        self.mean.copy_(torch.tensor(config.image.mean).view(3, 1, 1))
        self.std.copy_(torch.tensor(config.image.std).view(3, 1, 1))

    def draw(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        clips = batch["images"]
        hard = float(self.step_info.progress >= self.settings.hard_from)
        shared = uniforms(clips, self.seed, self.step_info.step, "tracking", 0)[:, 0]  # the same for all clips
        return {"hard": to_device(torch.full((1,), hard), clips.index.device), "shift": shared}

    @torch.no_grad()
    def patches(
        self, clips: Float[Tensor, "batch frames 3 h w"]
    ) -> tuple[Float[Tensor, "two_batch 3 s s"], Bool[Tensor, " batch"], Int[Tensor, "batch 2 2"]]:
        """Patches of the first frames, then what they have become in the last; which clips are usable; both places."""
        own, gray = self.settings, clips.float().mean(2)
        first = most_motion(gray, own.patch)
        last = follow(gray, first, own.patch, own.search)
        both = torch.cat([crop(clips[:, 0], first, own.patch), crop(clips[:, -1], last, own.patch)])
        return both, usable(moving_share(gray), own.moving), torch.stack([first, last], 1)

    def embed(self, patches: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n dim"]:
        """Embeddings of length 1, float32."""
        patches = patches.contiguous(memory_format=torch.channels_last)
        return F.normalize(self.head(self.backbone(patches)).float(), dim=1)

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        clips, own = batch["images"], self.settings
        both, kept, _ = self.patches(clips.views[0])
        queries, tracked = self.embed(both).chunk(2)
        every = distributed.gather(tracked.contiguous())
        videos = distributed.gather(clips["video"])
        place = distributed.rows(len(tracked)).start + torch.arange(len(tracked), device=tracked.device)
        shift = 1 + (drawn["shift"] * (len(every) - 1)).long()  # one of the others, the next but so many
        foreign = videos[None] != clips["video"][:, None]
        loss, active, usable_rows = ranking_loss(
            queries, tracked, every, (place + shift) % len(every), foreign, drawn["hard"], own.margin, own.hardest
        )
        weight = (kept & usable_rows).float()
        total = mean_over_kept(loss, weight)
        with torch.no_grad():
            parts = {
                "loss": total.detach(),
                "active": mean_over_kept(active, weight),  # triplets that are not yet apart by the margin
                "kept": distributed.mean(weight),
                "cosine": mean_over_kept((queries * tracked).sum(1), weight),
            }
        return Losses(total, parts, queries.detach())

    @torch.no_grad()
    def pictures(self, batch: Mapping[str, Batch]) -> list[Picture]:
        clips = batch["images"].views[0]
        both, kept, _ = self.patches(clips)
        with statistics_kept(self):
            queries, tracked = self.embed(both).chunk(2)
        cosines = queries @ tracked.T
        shown = (torch.stack(both.chunk(2), 1).float() * self.std + self.mean).clamp(0, 1)
        frames = (clips[:, [0, -1]].float() * self.std + self.mean).clamp(0, 1)
        rows = []
        for number, used in enumerate(kept.tolist()):
            row = cosines[number]
            words = (
                f"cosine {row[number]:.2f}, with other patches {(row.sum() - row[number]) / max(len(row) - 1, 1):.2f}"
            )
            images = [frames[number, 0], shown[number, 0], frames[number, 1], shown[number, 1]]
            rows.append(Picture(images, words if used else f"{words}; left out"))
        return rows

    @property
    def result(self) -> nn.Module:
        return self.backbone


@in_float32
def ranking_loss(
    queries: Float[Tensor, "batch dim"],
    tracked: Float[Tensor, "batch dim"],
    every: Float[Tensor, "total dim"],
    drawn: Int[Tensor, " batch"],
    foreign: Bool[Tensor, "batch total"],
    hard: Float[Tensor, " 1"],
    margin: float,
    hardest: int,
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"], Bool[Tensor, " batch"]]:
    """max(0, D(q, t) - D(q, n) + margin) with D = 1 - cosine, of each clip (equation 1).

    n is row `drawn` of `every`, or where `hard` is 1 the mean is taken over the `hardest` rows with the greatest loss.
    Only rows that are `foreign`, of another video, count. Also returns the share of these triplets that are above 0,
    and which clips have one.
    """
    own = 1 - (queries * tracked).sum(1, keepdim=True)
    loss = (own - (1 - queries @ every.T) + margin).clamp(min=0)
    among = loss.masked_fill(~foreign, -1.0).topk(min(hardest, loss.shape[1]), 1).values
    real = (among >= 0).float()
    worst = (among.clamp(min=0) * real).sum(1) / real.sum(1).clamp(min=1)
    random = loss.gather(1, drawn[:, None])[:, 0]
    of_drawn = foreign.gather(1, drawn[:, None])[:, 0]
    is_hard = hard > 0
    active = ((among > 0).float() * real).sum(1) / real.sum(1).clamp(min=1)
    return (
        torch.where(is_hard, worst, random),
        torch.where(is_hard, active, (random > 0).float()).detach(),
        torch.where(is_hard, real.sum(1) > 0, of_drawn),
    )
