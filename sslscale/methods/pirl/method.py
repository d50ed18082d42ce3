"""PIRL: an image and its jigsaw or its turned self have one embedding, kept in a memory bank (arXiv:1912.01991)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data import geometry, rng
from sslscale.data.batch import Batch
from sslscale.data.transfer import to_device
from sslscale.losses import in_float32
from sslscale.methods.method import Losses, Method
from sslscale.methods.pirl import PIRL
from sslscale.nn.classifier import build_backbone
from sslscale.nn.eager import eager
from sslscale.nn.memory import SampleMemory
from sslscale.settings.model import ModelConfig
from sslscale.settings.train import TrainConfig
from sslscale.shapes import Bool, Float

_GRID, _TILES = 3, 9


@in_float32
def pirl_nce(
    memory: Float[Tensor, "batch dim"],
    embedding: Float[Tensor, "batch dim"],
    negatives: Float[Tensor, "negatives dim"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Eqs. 3 and 4 with the image's memory in place of f(v_I), the batch's mean.

    -log h(m_I, v) - sum_{I'} log(1 - h(v, m_I')), where h is the softmax of the cosines over t among m_I and the
    negatives; rows have length 1, and no gradient reaches the memory.
    """
    v = F.normalize(embedding.float(), dim=1)
    positive = (v * memory.detach()).sum(1, keepdim=True)
    logs = F.log_softmax(torch.cat([positive, v @ negatives.detach().T], 1) / temperature, dim=1)
    others = torch.log1p(-logs[:, 1:].exp().clamp(max=1 - 1e-6)).sum(1)
    return -distributed.mean(logs[:, 0] + others)


class PIRLMethod(Method):
    """A backbone, a linear head for the image and one for each pretext's result, and the memory of every image."""

    seen: Tensor

    def __init__(self, settings: PIRL, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_backbone(model)
        self.image_head = nn.Linear(width, settings.projection)
        if "jigsaw" in settings.pretext:
            self.tile_head = nn.Linear(width, settings.projection)
            self.jigsaw_head = nn.Linear(_TILES * settings.projection, settings.projection)
        if "rotation" in settings.pretext:
            self.rotation_head = nn.Linear(width, settings.projection)
        self.bank = SampleMemory(0, settings.projection)
        self.register_buffer("seen", torch.zeros(0, dtype=torch.bool))
        self._seen: Tensor | None = None
        self.register_load_state_dict_post_hook(lambda module, keys: setattr(module, "_seen", None))

    def prepare(self, num_images: Mapping[str, int], config: TrainConfig, scratch: Path | None = None) -> None:
        self.bank = SampleMemory(num_images["images"], self.settings.projection, scratch)
        for rows in self.bank.rows.split(1 << 16):
            rows.copy_(F.normalize(torch.randn_like(rows), dim=1))
        self.seen, self._seen = torch.zeros(num_images["images"], dtype=torch.bool), None

    def draw(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """What is remembered of the images, the negatives, and the numbers that make each pretext's result."""
        images = batch["images"]
        device, numbers = images.index.device, images.host_index
        step = torch.full_like(numbers, self.step_info.step)
        draws = rng.uniforms(rng.stream_seed(0, "pretext"), step, numbers, 3 * _TILES + 1)
        return {
            "memory": self.bank.read(numbers, device),
            "negatives": self._negatives(device),
            "draws": to_device(draws, device),
        }

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        images, settings = batch["images"], self.settings
        image, other = images.views
        embedding = self.image_head(self.backbone(image))
        memory, negatives = drawn["memory"], drawn["negatives"]
        if settings.first_memory == "embedding":
            now = F.normalize(embedding.detach().float(), dim=1)
            memory = torch.where(self.seen[images.index][:, None], memory, now)
        transformed = torch.stack(
            [pirl_nce(memory, v, negatives, settings.temperature) for v in self._transformed(other, drawn["draws"])]
        ).mean()
        plain = pirl_nce(memory, embedding, negatives, settings.temperature)
        loss = settings.weight * transformed + (1 - settings.weight) * plain  # eq. 5
        parts = {"loss": loss.detach(), "transformed": transformed.detach(), "image": plain.detach()}
        losses = Losses(loss, parts, embedding.detach())
        if self.training:
            self._remember(images, embedding.detach())
        return losses

    def _negatives(self, device: torch.device) -> Float[Tensor, "negatives dim"]:
        """Rows of the bank, drawn from the step: the same on every worker and after a restart."""
        generator = torch.Generator().manual_seed(rng.stream_seed(self.step_info.step, "negatives"))
        among = torch.arange(len(self.seen))
        if self.settings.first_memory == "embedding":  # random rows would repel nobody: one point for all would do
            among = among[self._seen_on_host()]
        count = min(self.settings.negatives, len(among))
        drawn = torch.randint(max(len(among), 1), (count,), generator=generator)
        return self.bank.read(among[drawn], device)

    def _seen_on_host(self) -> Bool[Tensor, " images"]:
        """`seen` as the host knows it: it is asked of the device once, when a training begins or goes on."""
        if self._seen is None:
            self._seen = self.seen.cpu().clone()
        return self._seen

    def _transformed(
        self, view: Float[Tensor, "batch channels h w"], draws: Float[Tensor, "batch draws"]
    ) -> list[Tensor]:
        """The embedding of each pretext's result."""
        found = []
        if "jigsaw" in self.settings.pretext:
            x, y, order = draws[:, : 3 * _TILES].chunk(3, dim=1)
            size = round(view.shape[-1] // _GRID * 64 / 85)  # section 3.3: pieces of 64 in cells of 85
            pieces = geometry.jigsaw(geometry.tiles(view, _GRID, size, x, y), order.argsort(1))
            tiles = self.tile_head(self.backbone(pieces.flatten(0, 1))).unflatten(0, (-1, _TILES))
            found.append(self.jigsaw_head(tiles.flatten(1)))
        if "rotation" in self.settings.pretext:
            turned = geometry.quarter_turns(view, (draws[:, -1] * 4).long())
            found.append(self.rotation_head(self.backbone(turned)))
        return found

    @eager
    @torch.no_grad()
    def _remember(self, images: Batch, embedding: Float[Tensor, "batch dim"]) -> None:
        """Section 3.2: m_I <- momentum * m_I + (1 - momentum) * f(v_I), of length 1; of all workers' images."""
        rows = distributed.gather(F.normalize(embedding.detach().float(), dim=1))
        numbers = images.global_index
        index = to_device(numbers, rows.device)
        momentum = self.settings.momentum
        old = self.bank.read(numbers, rows.device)
        if self.settings.first_memory == "embedding":
            old = torch.where(self.seen[index][:, None], old, rows)
        self.bank.write(numbers, F.normalize(momentum * old + (1 - momentum) * rows, dim=1))
        self._seen_on_host()[numbers] = True
        self.seen.index_fill_(0, index, True)

    @property
    def result(self) -> nn.Module:
        return self.backbone
