"""Context prediction: where one patch of an image lies beside another (arXiv:1505.05192)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale.data import geometry
from sslscale.methods.method import Losses, Picture
from sslscale.methods.pretext import PretextMethod, Task, classify, hashed, standardize
from sslscale.methods.relative_position import RelativePosition
from sslscale.shapes import Float, Int

_GRID, _TILES, _CENTRE = 3, 9, 4
_AROUND = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if (row, column) != (0, 0)]
_NAMES = ("above left", "above", "above right", "left", "right", "below left", "below", "below right")
_SHARES = (1.0, 2 / 3, 1 / 2, 1 / 3)  # sides to which patches are scaled down, the first for those that are not
_PER_TILE = 2 + 1 + 1 + 1  # place, shrinking, to what, channel


def neighbours(pairs: str) -> tuple[list[int], list[int], list[int]]:
    """Of each pair the first tile, the second, and where this lies beside that (0 to 7, row by row)."""
    found = []
    for tile in range(_TILES) if pairs == "all" else (_CENTRE,):
        for label, (down, right) in enumerate(_AROUND):
            row, column = tile // _GRID + down, tile % _GRID + right
            if 0 <= row < _GRID and 0 <= column < _GRID:
                found.append((tile, row * _GRID + column, label))
    first, second, labels = zip(*found, strict=True)
    return list(first), list(second), list(labels)


def hide_colours(
    patches: Float[Tensor, "n 3 s s"], channel: Int[Tensor, " n"], noise: Float[Tensor, "n 3 s s"]
) -> Float[Tensor, "n 3 s s"]:
    """Keep one channel less its mean, replace the others by noise, and divide all by its root mean square."""
    kept = F.one_hot(channel, 3)[:, :, None, None].to(patches.dtype)
    centred = patches - patches.mean((2, 3), keepdim=True)
    mixed = torch.where(kept.bool(), centred, noise)
    return mixed / (mixed.square().mean((1, 2, 3), keepdim=True).sqrt() + 1e-5)


class RelativePositionTask(Task):
    """Patches on a jittered grid, one trunk for all, and a classifier of eight directions above two of them."""

    num_draws = _PER_TILE * _TILES
    first: Tensor
    second: Tensor
    direction: Tensor

    def __init__(self, settings: RelativePosition, width: int):
        super().__init__()
        self.settings = settings
        self.tile = nn.Sequential(nn.Linear(width, settings.tile), nn.BatchNorm1d(settings.tile), nn.ReLU())
        self.pair = nn.Sequential(
            nn.Linear(2 * settings.tile, settings.hidden),
            nn.BatchNorm1d(settings.hidden),
            nn.ReLU(),
            nn.Linear(settings.hidden, settings.hidden),
            nn.BatchNorm1d(settings.hidden),
            nn.ReLU(),
            nn.Linear(settings.hidden, len(_AROUND)),
        )
        for name, values in zip(("first", "second", "direction"), neighbours(settings.pairs), strict=True):
            self.register_buffer(name, torch.tensor(values), persistent=False)

    def patches(
        self, view: Float[Tensor, "batch 3 h w"], draws: Float[Tensor, "batch draws"]
    ) -> Float[Tensor, "_ 3 s s"]:
        """The nine patches of every image as they are cut, one after another."""
        size, gap, jitter = self.settings.pixels(view.shape[-1])
        moved = ((draws[:, : 2 * _TILES] * (2 * jitter + 1)).floor() + gap // 2 - jitter).clamp(min=0)
        x, y = ((moved + 0.5) / (gap + 1)).chunk(2, dim=1)  # as shares of the cell's free room
        return geometry.tiles(view, _GRID, size, x, y, cell=size + gap).flatten(0, 1)

    def guarded(
        self, patches: Float[Tensor, "n 3 s s"], draws: Float[Tensor, "batch draws"]
    ) -> Float[Tensor, "n 3 s s"]:
        """Patches without what would give their place away other than what they show."""
        shrinks, to, channel = (
            part.flatten() for part in draws[:, 2 * _TILES : self.num_draws].unflatten(1, (3, _TILES)).unbind(1)
        )
        size = patches.shape[-1]
        level = torch.where(shrinks < self.settings.shrink, 1 + (to * (len(_SHARES) - 1)).long(), 0)
        for number, share in enumerate(_SHARES[1:], 1):
            small = F.interpolate(patches, (max(round(share * size), 1),) * 2, mode="bilinear", antialias=True)
            again = F.interpolate(small, (size, size), mode="bilinear", antialias=True)
            patches = torch.where((level == number)[:, None, None, None], again, patches)
        if self.settings.colours == "keep":
            return standardize(patches)
        noise = hashed(channel, patches[0].numel()).view_as(patches) - 0.5
        return hide_colours(patches, (channel * 3).long(), noise)

    def logits(
        self, backbone: nn.Module, patches: Float[Tensor, "n 3 s s"]
    ) -> tuple[Float[Tensor, "rows 8"], Float[Tensor, "n dim"]]:
        """Of each pair of each image, the pairs of one image together; and the patches' features."""
        features = backbone(patches)
        tiles = self.tile(features).unflatten(0, (-1, _TILES))
        both = torch.cat([tiles[:, self.first], tiles[:, self.second]], 2)
        return self.pair(both.flatten(0, 1)), features

    def forward(
        self, backbone: nn.Module, view: Float[Tensor, "batch 3 h w"], draws: Float[Tensor, "batch draws"]
    ) -> Losses:
        logits, features = self.logits(backbone, self.guarded(self.patches(view, draws), draws))
        return classify(logits, self.direction.repeat(len(view)), features[_CENTRE::_TILES])

    def pictures(
        self, backbone: nn.Module, view: Float[Tensor, "batch 3 h w"], draws: Float[Tensor, "batch draws"]
    ) -> list[Picture]:
        plain = self.patches(view, draws)
        logits, _ = self.logits(backbone, self.guarded(plain, draws))
        found = logits.argmax(1).view(len(view), -1)
        shown, whole = self.pixels(plain).unflatten(0, (-1, _TILES)), self.pixels(view)
        rows = []
        for number in range(len(view)):
            pair = 7 * number % len(self.direction)  # others of each image
            one, two = shown[number, self.first[pair]], shown[number, self.second[pair]]
            truth, said = _NAMES[int(self.direction[pair])], _NAMES[int(found[number, pair])]
            rows.append(Picture([whole[number], one, two], f"the second patch is {truth}; said {said}"))
        return rows


class RelativePositionMethod(PretextMethod):
    """A backbone for patches, and a classifier of where one lies beside another."""

    kind = RelativePositionTask
