"""Detection and segmentation from annotated images."""

from __future__ import annotations

from collections.abc import Mapping

from sslscale.data.batch import Batch
from sslscale.methods.method import Losses
from sslscale.methods.scenes import SceneMethod


class DetectionMethod(SceneMethod):
    """A detector, or a segmentation network, with the sum of its losses."""

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        total, parts = self.loss_of(batch["labeled"])
        return Losses(total, {name: value.detach() for name, value in {"loss": total, **parts}.items()})
