"""DenseCL: images and the places of their maps find their other view among keys of past batches (arXiv:2011.09157)."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.data.transfer import to_device
from sslscale.losses import in_float32, queue_entropies
from sslscale.methods.densecl import DenseCL
from sslscale.methods.method import Losses, Method
from sslscale.nn.classifier import build_backbone
from sslscale.nn.ema import update_ema
from sslscale.nn.queue import Queue
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float, Int


@torch.no_grad()
@in_float32
def matches(
    query: Float[Tensor, "batch width places"], key: Float[Tensor, "batch width others"]
) -> Int[Tensor, "batch places"]:
    """For each place of one view the place of the other of the highest cosine (section 3.3)."""
    a, b = F.normalize(query.float(), dim=1), F.normalize(key.float(), dim=1)
    return (a.mT @ b).argmax(2)


class _Heads(nn.Module):
    """A perceptron of the pooled features, and the same of each place, of convolutions of 1 x 1."""

    def __init__(self, width: int, projection: int):
        super().__init__()
        relu = nn.ReLU(inplace=True)
        self.image = nn.Sequential(nn.Linear(width, width), relu, nn.Linear(width, projection))
        self.places = nn.Sequential(nn.Conv2d(width, width, 1), relu, nn.Conv2d(width, projection, 1))

    def forward(
        self, maps: Float[Tensor, "batch width h w"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch places dim"]]:
        """Both, of length 1."""
        image, places = self.image(maps.mean((2, 3))), self.places(maps).flatten(2).mT
        return F.normalize(image.float(), dim=1), F.normalize(places.float(), dim=2)


class DenseCLMethod(Method):
    """A backbone and heads for queries, a slow copy of both for keys, and two queues of keys."""

    def __init__(self, settings: DenseCL, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_backbone(model)
        self.heads = _Heads(width, settings.projection)
        self.slow = copy.deepcopy(nn.ModuleList([self.backbone, self.heads])).requires_grad_(False)
        self.queues = nn.ModuleList(Queue(settings.queue, settings.projection) for _ in range(2))

    def draw(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """The weight of the places."""
        risen = min(self.step_info.progress / self.settings.warmup, 1.0) if self.settings.warmup else 1.0
        return {"weight": to_device(torch.tensor(self.settings.dense * risen), batch["images"].index.device)}

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        first, second = batch["images"].views
        temperature, weight = self.settings.temperature, drawn["weight"]
        maps = self.backbone(first, maps=True)
        query, places = self.heads(maps)
        with torch.no_grad():  # in training mode, as in the authors' code
            others = self.slow[0](second, maps=True)
            key, key_places = self.slow[1](others)
            match = matches(maps.flatten(2), others.flatten(2))
            positive = key_places.gather(1, match[..., None].expand(-1, -1, key_places.shape[2]))
            mean = F.normalize(key_places.mean(1), dim=1)
        images, cells = (queue.rows for queue in self.queues)
        of_images = distributed.mean(queue_entropies(query, key, images, temperature))  # pyright: ignore[reportArgumentType]
        flat = places.flatten(0, 1), positive.flatten(0, 1)
        each = queue_entropies(*flat, cells, temperature).view(len(first), -1)  # pyright: ignore[reportArgumentType]
        of_places = distributed.mean(each.mean(1))
        if self.training:
            for queue, rows in zip(self.queues, (key, mean), strict=True):
                queue.push(rows)  # pyright: ignore[reportCallIssue]
        loss = (1 - weight) * of_images + weight * of_places
        parts = {"loss": loss, "image_loss": of_images, "dense_loss": of_places}
        return Losses(loss, {name: value.detach() for name, value in parts.items()}, maps.mean((2, 3)).detach())

    def after_step(self, step: int, progress: float) -> None:
        online = nn.ModuleList([self.backbone, self.heads])
        update_ema(self.slow, online, self.settings.momentum, buffers=False)

    @property
    def result(self) -> nn.Module:
        return self.backbone
