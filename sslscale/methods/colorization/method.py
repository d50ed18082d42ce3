"""Colorization: the colour of each place of an image, from lightness alone (arXiv:1603.08511)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.lab import ab_bins, lab_to_rgb, rgb_to_lab
from sslscale.losses import in_float32
from sslscale.methods.colorization import Colorization
from sslscale.methods.method import Losses, Picture
from sslscale.methods.pretext import PretextMethod, Task
from sslscale.nn.maps import Upsample, tie_input_channels
from sslscale.settings.train import TrainConfig
from sslscale.shapes import Bool, Float, Int

_COLOURFUL = 5.0  # an image in which no |a| or |b| is above is gray, and teaches no colour


def soft_bins(
    ab: Float[Tensor, "n 2"], bins: Float[Tensor, "bins 2"], count: int, sigma: float
) -> tuple[Int[Tensor, "n count"], Float[Tensor, "n count"]]:
    """The nearest bins of each colour and its share of each: Gaussian weights of their distance, summing to 1; the
    nearest first."""
    distance, nearest = torch.cdist(ab, bins, compute_mode="donot_use_mm_for_euclid_dist").topk(count, largest=False)
    weights = torch.exp(-distance.square() / (2 * sigma**2))
    return nearest, weights / weights.sum(1, keepdim=True)


def class_weights(frequency: Float[Tensor, " bins"], rebalance: float) -> Float[Tensor, " bins"]:
    """Eq. 4: ((1 - lambda) p + lambda / Q)^-1, scaled so that the mean weight of a pixel is 1; Q counts the colours
    that come at all."""
    there = frequency > 0
    weights = 1 / ((1 - rebalance) * frequency + rebalance / there.sum().clamp(min=1))
    return weights / (frequency * weights).sum().clamp(min=1e-12)


@in_float32
def colorization_loss(
    logits: Float[Tensor, "batch places bins"],
    nearest: Int[Tensor, "batch places count"],
    shares: Float[Tensor, "batch places count"],
    weights: Float[Tensor, " bins"],
    colourful: Bool[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Eq. 2: cross-entropy with the soft bins, of each place times the weight of its nearest bin, the mean over all
    workers' places; those of gray images count 0."""
    logs = logits.float().log_softmax(2)
    entropy = -(shares * logs.gather(2, nearest)).sum(2)
    return distributed.mean((entropy * weights[nearest[..., 0]]).mean(1) * colourful)


def annealed_mean(logits: Float[Tensor, "n bins"], bins: Float[Tensor, "bins 2"], temperature: float) -> Tensor:
    """Eq. 5: the mean colour (n, 2) of the softmax of log z / T."""
    return (logits.float().log_softmax(1) / temperature).softmax(1) @ bins


class ColorizationTask(Task):
    """A few convolutions above the network's map give each place's distribution over the bins."""

    bins: Tensor
    counts: Tensor
    smoothing: Tensor

    def __init__(self, settings: Colorization, width: int):
        super().__init__()
        self.settings = settings
        bins = ab_bins()
        self.register_buffer("bins", bins, persistent=False)
        near = torch.exp(-torch.cdist(bins, bins).square() / (2 * settings.sigma**2))
        self.register_buffer("smoothing", near / near.sum(1, keepdim=True), persistent=False)
        self.register_buffer("counts", torch.zeros(len(bins)))  # shares of the colours, summed over the steps
        self.up = Upsample(width, settings.hidden)
        self.head = nn.Conv2d(settings.hidden, len(bins), 1)

    def prepare(self, config: TrainConfig, backbone: nn.Module) -> None:
        super().prepare(config, backbone)
        tie_input_channels(backbone)

    def lightness(self, lab: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 3 h w"]:
        """L in all three channels, normalised as the mean of a colour image's channels is."""
        return ((lab[:, :1] / 100 - self.mean.mean()) / self.std.mean()).expand(-1, 3, -1, -1)

    def logits(
        self, backbone: nn.Module, lab: Float[Tensor, "batch 3 h w"], size: tuple[int, int]
    ) -> tuple[Float[Tensor, "batch bins _ _"], Float[Tensor, "batch dim"]]:
        """Of every place of a map of this size; and the images' features."""
        maps = backbone(self.lightness(lab), maps=True)
        return self.head(self.up(maps, size)), maps.mean((2, 3))

    def forward(
        self, backbone: nn.Module, view: Float[Tensor, "batch 3 h w"], draws: Float[Tensor, "batch draws"]
    ) -> Losses:
        own = self.settings
        lab = rgb_to_lab(self.pixels(view))
        ab = lab[:, 1:, own.stride // 2 :: own.stride, own.stride // 2 :: own.stride]
        logits, features = self.logits(backbone, lab, (ab.shape[2], ab.shape[3]))
        nearest, shares = soft_bins(ab.permute(0, 2, 3, 1).reshape(-1, 2), self.bins, own.neighbours, own.sigma)
        frequency = self._count(nearest, shares)
        colourful = (lab[:, 1:].abs() > _COLOURFUL).flatten(1).any(1)
        flat = logits.permute(0, 2, 3, 1).flatten(1, 2)
        nearest, shares = (found.unflatten(0, (len(view), -1)) for found in (nearest, shares))
        loss = colorization_loss(flat, nearest, shares, class_weights(frequency, own.rebalance), colourful)
        right = distributed.mean((flat.argmax(2) == nearest[..., 0]).float().mean(1))
        return Losses(loss, {"loss": loss.detach(), "pretext_accuracy": right.detach()}, features.detach())

    @torch.no_grad()
    def _count(self, nearest: Int[Tensor, "n count"], shares: Float[Tensor, "n count"]) -> Float[Tensor, " bins"]:
        """How often each colour has come so far, of all workers' images, smoothed over near bins."""
        found = torch.zeros_like(self.counts).index_add_(0, nearest.flatten(), shares.flatten())
        total = distributed.all_sum(found)
        counts = self.counts + total / total.sum()
        if self.training:
            self.counts.copy_(counts)
        return (counts / counts.sum()) @ self.smoothing

    def pictures(
        self, backbone: nn.Module, view: Float[Tensor, "batch 3 h w"], draws: Float[Tensor, "batch draws"]
    ) -> list[Picture]:
        lab = rgb_to_lab(self.pixels(view))
        size = (max(view.shape[2] // self.settings.stride, 1), max(view.shape[3] // self.settings.stride, 1))
        logits, _ = self.logits(backbone, lab, size)
        mean = annealed_mean(logits.permute(0, 2, 3, 1).flatten(0, 2), self.bins, self.settings.temperature)
        ab = mean.view(len(view), *size, 2).permute(0, 3, 1, 2)
        ab = F.interpolate(ab, view.shape[2:], mode="bilinear")
        coloured = lab_to_rgb(torch.cat([lab[:, :1], ab], 1))
        gray = (lab[:, :1] / 100).expand(-1, 3, -1, -1)
        own = self.pixels(view)
        return [
            Picture([own[n], gray[n], coloured[n]], "the image, its lightness, and its predicted colours")
            for n in range(len(view))
        ]


class ColorizationMethod(PretextMethod):
    """A backbone that sees lightness, and a head of colours."""

    kind = ColorizationTask
