"""Context encoders: a hidden region of an image from what is around it (arXiv:1604.07379)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from sslscale import distributed
from sslscale.losses import in_float32
from sslscale.methods.inpainting import Inpainting
from sslscale.methods.method import Losses, Picture
from sslscale.methods.pretext import PretextMethod, Task, hashed
from sslscale.nn.maps import Decoder
from sslscale.settings.train import TrainConfig
from sslscale.shapes import Float

_RIM_WEIGHT = 10.0
_HIDDEN = 0.25  # share of the pixels that blots hide; the authors take 20 to 30 %
_BLOT = 0.06  # of the image's side: how coarse the noise is that blots are made of


@in_float32
def reconstruction_loss(
    made: Float[Tensor, "batch 3 h w"], images: Float[Tensor, "batch 3 h w"], weight: Float[Tensor, "1 1 h w"]
) -> Float[Tensor, ""]:
    """Eq. 1: the squared error where `weight` is not 0, times it; the mean over the numbers there."""
    error = (made.float() - images.float()).square() * weight
    return distributed.mean(error.sum((1, 2, 3))) / (3 * (weight > 0).sum())


class Discriminator(nn.Module):
    """Convolutions of 4 x 4 with stride 2 to one number: whether the region is a photograph's."""

    def __init__(self, size: int, width: int = 64):
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        while size >= 8:
            layers += [nn.Conv2d(inputs, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(0.2)]
            inputs, width, size = width, min(2 * width, 512), size // 2
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(inputs * size * size, 1)

    def forward(self, region: Float[Tensor, "batch 3 s s"]) -> Float[Tensor, " batch"]:
        return self.last(self.layers(region).flatten(1))[:, 0]


class InpaintingTask(Task):
    """A decoder above the network's map makes the whole image; the hidden region is judged."""

    num_draws = 0
    hole: Tensor
    weight: Tensor

    def __init__(self, settings: Inpainting, width: int):
        super().__init__()
        self.settings, self._width = settings, width
        self.decoder: nn.Module = nn.Identity()
        self.judge: nn.Module = nn.Identity()

    def prepare(self, config: TrainConfig, backbone: nn.Module) -> None:
        super().prepare(config, backbone)
        own, size = self.settings, config.image.size
        modes = {module: module.training for module in backbone.modules()}
        with torch.no_grad():
            grid = backbone.eval()(torch.zeros(1, 3, size, size), maps=True).shape[-1]
        for module, training in modes.items():
            module.training = training
        self.decoder = Decoder(self._width, own.width, grid, size)
        if own.adversarial:
            self.judge = Discriminator(size // 2 if own.region == "centre" else size)
        seen = torch.zeros(1, 1, size, size)
        side, first = size // 2, size // 4
        rim = round(own.overlap * side)
        self.register_buffer("hole", seen.clone(), persistent=False)
        self.register_buffer("weight", seen.clone(), persistent=False)
        self.weight[..., first : first + side, first : first + side] = _RIM_WEIGHT if rim else 1.0
        inner = slice(first + rim, first + side - rim)
        self.hole[..., inner, inner] = self.weight[..., inner, inner] = 1.0

    def masks(self, draws: Float[Tensor, "batch draws"]) -> tuple[Tensor, Tensor]:
        """What is hidden, 0 or 1, and the weight of each pixel in the loss: (1, 1, size, size)."""
        if self.settings.region == "centre":
            return self.hole, self.weight
        size = self.hole.shape[-1]
        side = max(round(size * _BLOT), 2)
        noise = hashed(draws[:1, -1], side * side).view(1, 1, side, side)
        smooth = F.interpolate(noise, (size, size), mode="bicubic")
        hole = (smooth <= smooth.flatten().kthvalue(round(_HIDDEN * size * size)).values).float()
        return hole, hole

    def made(
        self, backbone: nn.Module, view: Float[Tensor, "batch 3 h w"], hole: Float[Tensor, "1 1 h w"]
    ) -> tuple[Float[Tensor, "batch 3 h w"], Float[Tensor, "batch dim"]]:
        """The image as the decoder makes it, and its features; where it is hidden the network sees 0."""
        maps = backbone(view * (1 - hole).to(view.dtype), maps=True)
        return self.decoder(maps), maps.mean((2, 3))

    def forward(
        self, backbone: nn.Module, view: Float[Tensor, "batch 3 h w"], draws: Float[Tensor, "batch draws"]
    ) -> Losses:
        hole, weight = self.masks(draws)
        made, features = self.made(backbone, view, hole)
        error = reconstruction_loss(made, view, weight)
        share = self.settings.adversarial
        if not share:
            return Losses(error, {"loss": error.detach()}, features.detach())
        deceives, judges = self._adversarial(made, view, hole)
        total = (1 - share) * error + share * deceives + judges
        parts = {"loss": (1 - share) * error + share * deceives, "error": error, "deceives": deceives, "judge": judges}
        return Losses(total, {name: value.detach() for name, value in parts.items()}, features.detach())

    def _adversarial(
        self, made: Float[Tensor, "batch 3 h w"], view: Float[Tensor, "batch 3 h w"], hole: Float[Tensor, "1 1 h w"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Eq. 2: the decoder's loss, in which the judge's weights are fixed, and the judge's own."""
        real, filled = self._region(view.float()), self._region(view * (1 - hole) + made.float() * hole)
        fixed = {name: weight.detach() for name, weight in self.judge.named_parameters()}
        fixed |= {name: buffer.clone() for name, buffer in self.judge.named_buffers()}
        fooled = functional_call(self.judge, fixed, (filled,)).float()
        deceives = distributed.mean(F.softplus(-fooled))
        real_score, made_score = self.judge(real).float(), self.judge(filled.detach()).float()
        return deceives, distributed.mean(F.softplus(-real_score) + F.softplus(made_score)) / 2

    def _region(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 3 _ _"]:
        """What the judge sees: the hidden square alone, or the whole image with its blots filled."""
        if self.settings.region == "random":
            return images
        first = images.shape[-1] // 4
        inner = slice(first, first + images.shape[-1] // 2)
        return images[..., inner, inner]

    def pictures(
        self, backbone: nn.Module, view: Float[Tensor, "batch 3 h w"], draws: Float[Tensor, "batch draws"]
    ) -> list[Picture]:
        hole, _ = self.masks(draws)
        made, _ = self.made(backbone, view, hole)
        own = [self.pixels(x) for x in (view, view * (1 - hole), view * (1 - hole) + made.float() * hole)]
        return [
            Picture([shown[n] for shown in own], "the image, what is seen of it, and how it was filled")
            for n in range(len(view))
        ]


class InpaintingMethod(PretextMethod):
    """A backbone, a decoder, and on request a judge of what it makes."""

    kind = InpaintingTask
