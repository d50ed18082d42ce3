"""SwAV: a view predicts which prototypes another view of the image is assigned to (arXiv:2006.09882)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.losses import cross_view_entropy
from sslscale.methods.method import Losses, Method, StepInfo
from sslscale.methods.swav import SwAV
from sslscale.nn.classifier import build_backbone
from sslscale.nn.eager import eager
from sslscale.nn.heads import mlp
from sslscale.nn.multi_crop import encode_views
from sslscale.nn.queue import Queue
from sslscale.nn.sinkhorn import sinkhorn, usage_entropy
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


class SwAVMethod(Method):
    """A backbone, a projector of two layers, prototypes of length 1, and for small batches a queue for each view."""

    def __init__(self, settings: SwAV, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.backbone, width = build_backbone(model)
        self.projector = mlp([width, settings.hidden, settings.projection])
        self.prototypes = nn.Linear(settings.projection, settings.prototypes, bias=False)
        self.queues = nn.ModuleList(
            Queue(settings.queue, settings.projection) for _ in range(2 if settings.queue else 0)
        )
        self._full, self._queues_run = (False, False), False

    def before_step(self, step_info: StepInfo) -> None:
        super().before_step(step_info)
        self._full = tuple(queue.full for queue in self.queues)  # pyright: ignore[reportAttributeAccessIssue]
        self._queues_run = step_info.epoch >= self.settings.queue_epoch
        with torch.no_grad():
            self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))

    @property
    def edited(self) -> tuple[Tensor, ...]:
        return (self.prototypes.weight,)

    @property
    def frozen(self) -> tuple[Tensor, ...]:
        return (self.prototypes.weight,) if self.step_info.epoch < self.settings.freeze_prototypes else ()

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        views = batch["images"].views
        every = torch.cat(encode_views(self.backbone, views))
        embeddings = F.normalize(self.projector(every).float(), dim=1)
        scores = self.prototypes(embeddings).chunk(len(views))
        assignments = [self._assign(number, scores[number]) for number in range(2)]
        loss = cross_view_entropy(scores, assignments, self.settings.temperature)
        parts = {"loss": loss.detach(), "prototype_entropy": usage_entropy(assignments[0])}
        losses = Losses(loss, parts, embeddings[: len(views[0])].detach())
        if self.training and self._queues_run:
            self._push(embeddings.detach(), len(views))
        return losses

    @eager
    def _push(self, embeddings: Float[Tensor, "rows dim"], num_views: int) -> None:
        for queue, z in zip(self.queues, embeddings.chunk(num_views)[:2], strict=False):
            queue.push(z)  # pyright: ignore[reportCallIssue]

    @torch.no_grad()
    def _assign(self, view: int, scores: Float[Tensor, "batch prototypes"]) -> Float[Tensor, "batch prototypes"]:
        """Assignments of this worker's rows, found together with all workers' and the queue's."""
        rows = scores.detach()
        if self.queues and self._full[view]:
            kept: Tensor = self.queues[view].rows  # pyright: ignore[reportAssignmentType]
            own = kept.tensor_split(distributed.world_size())[distributed.rank()]
            rows = torch.cat([rows, self.prototypes(own)])
        return sinkhorn(rows, self.settings.epsilon, self.settings.iterations)[: len(scores)]

    @property
    def result(self) -> nn.Module:
        return self.backbone
