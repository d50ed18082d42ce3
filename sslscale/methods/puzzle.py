"""The puzzle of both jigsaw tasks: which permutation an image's tiles are in, some perhaps of another image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sslscale.data import geometry
from sslscale.data.lab import mix_channels
from sslscale.methods.method import Losses, Picture
from sslscale.methods.pretext import Task, classify, standardize
from sslscale.nn.permutations import TILES, permutations
from sslscale.settings.puzzle import Puzzle
from sslscale.shapes import Float, Int

_GRID = 3
# the authors' projection off the axis from green to magenta, on which lenses' colour errors lie
_PROJECTION = ((5 / 6, 1 / 3, -1 / 6), (1 / 3, 1 / 3, 1 / 3), (-1 / 6, 1 / 3, 5 / 6))


class JigsawTask(Task):
    """Tiles through one trunk, their features side by side, and a classifier of the set's permutations."""

    # place of each tile, the permutation, gray, projection, how many are replaced, which, by which, channels' shifts
    num_draws = 2 * TILES + 4 + 2 * TILES + 6 * TILES
    order: Tensor

    def __init__(self, settings: Puzzle, width: int):
        super().__init__()
        self.settings = settings
        chosen = permutations(settings.permutations, settings.choice)
        self.register_buffer("order", torch.from_numpy(chosen.astype("int64")))  # kept: it is what the classes mean
        self.tile = nn.Sequential(nn.Linear(width, settings.tile), nn.ReLU(), nn.Dropout(settings.dropout))
        wide = settings.hidden or TILES * settings.tile
        hidden: list[nn.Module] = []
        if settings.hidden:
            hidden = [nn.Linear(TILES * settings.tile, wide), nn.ReLU(), nn.Dropout(settings.dropout)]
        self.head = nn.Sequential(*hidden, nn.Linear(wide, len(chosen)))

    def puzzle(
        self, view: Float[Tensor, "batch 3 h w"], draws: Float[Tensor, "batch draws"]
    ) -> tuple[Float[Tensor, "batch 9 3 s s"], Int[Tensor, " batch"]]:
        """The tiles of each image in the order of a permutation, and its number."""
        own, size = self.settings, round(self.settings.tile_size * view.shape[-1])
        sizes = (TILES, TILES, 1, 1, 1, 1, TILES, TILES, 6 * TILES)
        x, y, which, gray, projected, count, among, other, channels = draws[:, : self.num_draws].split(sizes, 1)
        images = self._recoloured(self.pixels(view), gray, projected)
        most = own.channel_jitter
        shift = (channels.view(-1, TILES, 3, 2) * (most + 1)).long() if most else None
        tiles = geometry.tiles(images, _GRID, size, x, y, shift=shift, most=most)
        if own.substitutes:
            partner = (torch.arange(len(view), device=view.device) ^ 1).clamp(max=len(view) - 1)
            foreign = geometry.jigsaw(tiles[partner], other.argsort(1))  # each from a place of its own
            replaced = among.argsort(1).argsort(1) < (count * (own.substitutes + 1)).long()
            tiles = torch.where(replaced[:, :, None, None, None], foreign, tiles)
        target = (which[:, 0] * len(self.order)).long()
        return geometry.jigsaw(tiles, self.order[target]), target

    def _recoloured(
        self, images: Float[Tensor, "batch 3 h w"], gray: Float[Tensor, "batch 1"], projected: Float[Tensor, "batch 1"]
    ) -> Float[Tensor, "batch 3 h w"]:
        """Some images in gray, some of the others without the colours that a lens displaces."""
        own = self.settings
        if own.gray:
            plain = images.mean(1, keepdim=True).expand_as(images)
            images = torch.where((gray < own.gray)[:, :, None, None], plain, images)
        if own.projection:
            without = mix_channels(images, _PROJECTION)
            images = torch.where((projected < own.projection)[:, :, None, None], without, images)
        return images

    def logits(
        self, backbone: nn.Module, tiles: Float[Tensor, "batch 9 3 s s"]
    ) -> tuple[Float[Tensor, "batch permutations"], Float[Tensor, "batch dim"]]:
        """Of each puzzle; and the features of its first tile."""
        features = backbone(standardize(tiles.flatten(0, 1)))
        return self.head(self.tile(features).unflatten(0, (-1, TILES)).flatten(1)), features[::TILES]

    def forward(
        self, backbone: nn.Module, view: Float[Tensor, "batch 3 h w"], draws: Float[Tensor, "batch draws"]
    ) -> Losses:
        tiles, target = self.puzzle(view, draws)
        logits, features = self.logits(backbone, tiles)
        return classify(logits, target, features)

    def pictures(
        self, backbone: nn.Module, view: Float[Tensor, "batch 3 h w"], draws: Float[Tensor, "batch draws"]
    ) -> list[Picture]:
        tiles, target = self.puzzle(view, draws)
        training: Any = self.training
        self.eval()  # no dropout
        found = self.logits(backbone, tiles)[0].argmax(1)
        self.train(training)
        solved = geometry.jigsaw(tiles, self.order[found].argsort(1))
        whole = self.pixels(view)
        rows = []
        for number in range(len(view)):
            said = "right" if int(found[number]) == int(target[number]) else "wrong"
            shown = [whole[number], _joined(tiles[number]), _joined(solved[number])]
            rows.append(Picture(shown, f"the image, its puzzle, and as it was solved ({said})"))
        return rows


def _joined(tiles: Float[Tensor, "9 3 s s"]) -> Float[Tensor, "3 _ _"]:
    """Nine tiles as one image, with white between them."""
    framed = nn.functional.pad(tiles.clamp(0, 1), (1, 1, 1, 1), value=1.0)
    return framed.unflatten(0, (_GRID, _GRID)).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
