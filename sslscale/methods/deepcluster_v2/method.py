"""DeepCluster v2: every crop is classified as its image's cluster, found anew in each epoch (arXiv:2006.09882)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data import rng
from sslscale.data.batch import Batch
from sslscale.errors import ConfigError
from sslscale.methods.deepcluster_v2 import DeepClusterV2
from sslscale.methods.method import Losses, Method, StepInfo
from sslscale.nn.classifier import build_backbone
from sslscale.nn.eager import eager
from sslscale.nn.heads import mlp
from sslscale.nn.memory import SampleMemory
from sslscale.nn.multi_crop import encode_views
from sslscale.nn.spherical_kmeans import spherical_kmeans
from sslscale.settings.model import ModelConfig
from sslscale.settings.train import TrainConfig
from sslscale.shapes import Float, Int

_VIEWS = 2  # that are remembered
_CHUNK = 8192  # rows that are compared with the centroids at once


def cluster_entropy(
    embeddings: Float[Tensor, "rows dim"],
    centroids: Float[Tensor, "heads clusters dim"],
    target: Int[Tensor, "heads batch"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of every view's cosines with the centroids and its image's cluster, the mean over views, images and
    heads. `rows` are the views of the batch one after another."""
    views = len(embeddings) // target.shape[1]
    losses = [
        distributed.mean(F.cross_entropy(embeddings @ own.T / temperature, wanted.repeat(views), reduction="none"))
        for own, wanted in zip(centroids, target, strict=True)
    ]
    return torch.stack(losses).mean()


def begins_epoch(info: StepInfo) -> bool:
    """Whether a step is the first of an epoch but that of the start, which has nothing to cluster: it needs no state,
    so that a training that goes on clusters where it would have."""
    before = info.epoch * (info.step - 1) / info.step + 1e-9 if info.step else 0.0
    return int(before) < int(info.epoch)


class DeepClusterV2Method(Method):
    """A backbone, a projector of two layers, the memory of every image's embeddings, and their clusters.

    The centroids are the classifiers' weights, and are never trained.
    """

    centroids: Tensor
    assigned: Tensor

    def __init__(self, settings: DeepClusterV2, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_backbone(model)
        self.projector = mlp([width, settings.hidden, settings.projection])
        self.memory = SampleMemory(0, _VIEWS * settings.projection)
        shape = settings.heads, settings.prototypes, settings.projection
        self.register_buffer("centroids", torch.zeros(shape))
        self.register_buffer("assigned", torch.zeros(settings.heads, 0, dtype=torch.int32))
        self._clustered = 0  # the epoch in which this process did so last

    def prepare(self, num_images: Mapping[str, int], config: TrainConfig, scratch: Path | None = None) -> None:
        super().prepare(num_images, config, scratch)
        count = num_images["images"]
        if self.settings.prototypes > count:
            raise ConfigError(f"method.prototypes: {self.settings.prototypes:,} are more than the {count:,} images")
        self.memory = SampleMemory(count, _VIEWS * self.settings.projection, scratch)
        for rows in self.memory.rows.split(1 << 16):  # until they are seen
            rows.copy_(F.normalize(torch.randn_like(rows), dim=1))
        self.assigned = torch.zeros(self.settings.heads, count, dtype=torch.int32)

    def before_step(self, step_info: StepInfo) -> None:
        super().before_step(step_info)
        epoch = int(step_info.epoch)
        if begins_epoch(step_info) and epoch != self._clustered:
            self._cluster(epoch)
            self._clustered = epoch

    @property
    def frozen(self) -> tuple[Tensor, ...]:
        return tuple(self.parameters()) if self.step_info.epoch < 1 else ()

    @torch.no_grad()
    def _cluster(self, epoch: int) -> None:
        """Cluster the memory for each head, the heads by the first and by the second view in turn."""
        device, count, dim = self.centroids.device, self.assigned.shape[1], self.settings.projection
        own = distributed.part(count)
        for head in range(self.settings.heads):
            view = slice(head % _VIEWS * dim, (head % _VIEWS + 1) * dim)
            generator = torch.Generator().manual_seed(rng.stream_seed(self.seed, f"clusters {epoch} {head}"))
            first = torch.randperm(count, generator=generator)[: self.settings.prototypes]

            def rows(view: slice = view) -> Iterator[Tensor]:
                for numbers in torch.arange(own.start, own.stop).split(_CHUNK):
                    yield self.memory.read(numbers, device)[:, view]

            chosen = self.memory.read(first, device)[:, view]
            self.centroids[head], nearest = spherical_kmeans(rows, chosen, self.settings.iterations)
            found = torch.zeros(count, dtype=torch.int32, device=device)
            found[own] = nearest.int()
            self.assigned[head] = distributed.all_sum(found)

    def draw(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """The clusters of the images, and whether there are any yet."""
        index = batch["images"].index
        learns = 0.0 if self.step_info.epoch < 1 else 1.0
        return {"target": self.assigned[:, index].long(), "learns": torch.full((), learns, device=index.device)}

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        images = batch["images"]
        every = torch.cat(encode_views(self.backbone, images.views))
        embeddings = F.normalize(self.projector(every).float(), dim=1)
        loss = cluster_entropy(embeddings, self.centroids, drawn["target"], self.settings.temperature)
        loss = loss * drawn["learns"]
        first = embeddings[: len(images.index)].detach()
        right = (first @ self.centroids[0].T).argmax(1) == drawn["target"][0]
        parts = {"loss": loss.detach(), "in_cluster": distributed.mean(right.float())}
        if self.training:
            self._remember(images, embeddings.detach())
        return Losses(loss, parts, first)

    @eager
    @torch.no_grad()
    def _remember(self, images: Batch, embeddings: Float[Tensor, "rows dim"]) -> None:
        """Keep the first two views' embeddings of all workers' images."""
        two = torch.cat(embeddings.split(len(images.index))[:_VIEWS], 1)
        self.memory.write(images.global_index, distributed.gather(two))

    @property
    def result(self) -> nn.Module:
        return self.backbone
