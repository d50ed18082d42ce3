"""Virtual adversarial training (Miyato et al. 2018, arXiv:1704.03976): predictions stand the small change of an image
that changes them most."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale import distributed
from sslscale.data import rng
from sslscale.data.batch import Batch
from sslscale.data.transfer import to_device
from sslscale.losses import linear_rise
from sslscale.methods.method import ClassifierMethod, Losses
from sslscale.methods.vat import VAT
from sslscale.nn.batch_norm import statistics_kept
from sslscale.nn.eager import eager
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


def divergence(p: Float[Tensor, "batch classes"], q: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
    """KL(softmax(p) || softmax(q)), the mean over the batch; p and q are logits."""
    first, second = F.log_softmax(p, 1), F.log_softmax(q, 1)
    return distributed.mean((first.exp() * (first - second)).sum(1))


def adversarial_direction(
    network: Callable[[Tensor], Tensor],
    images: Float[Tensor, "batch channels h w"],
    logits: Float[Tensor, "batch classes"],
    start: Float[Tensor, "batch channels h w"],
    *,
    xi: float,
    iterations: int,
) -> Float[Tensor, "batch channels h w"]:
    """The direction, of length 1 for each image, that changes the prediction most (section 3.3, eqs. 11 to 15): power
    iterations d <- grad of KL(p(x) || p(x + xi d))."""
    direction = _unit(start)
    # a small difference drowns in bfloat16
    with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        for _ in range(iterations):
            change = direction.detach().requires_grad_()
            distance = divergence(logits.detach(), network(images + xi * change))
            (direction,) = torch.autograd.grad(distance, change)
            direction = _unit(direction)
    return direction.detach()


def _unit(x: Tensor) -> Tensor:
    # first by the largest entry: squares of gradients near 1e-30 would be 0
    x = x / x.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-30)
    return x / x.square().sum((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)


class VATMethod(ClassifierMethod):
    """Cross-entropy of labelled images; divergence under the worst change, and entropy, of unlabelled ones.

    As in the authors' code each kind of image has a pass of its own, and batch norm's running statistics are those of
    the labelled images.
    """

    def __init__(self, settings: VAT, model: ModelConfig, num_classes: int):
        super().__init__(settings, model, num_classes)
        self.settings = settings

    def draw(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """Where the search for the worst change begins, and how much it counts by now."""
        seed = rng.stream_seed(self.seed, f"change {self.step_info.step}")
        rise = linear_rise(self.step_info.progress, 0.0, self.settings.ramp) if self.settings.ramp else 1.0
        images = batch["unlabeled"].views[0]
        return {"start": rng.global_normal(seed, images), "rise": to_device(torch.tensor(rise), images.device)}

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        settings, images = self.settings, unlabeled.views[0]
        logits = self.network(labeled.views[0]).float()
        supervised = distributed.mean(F.cross_entropy(logits, labeled.label, reduction="none"))
        guessed = self._without_trace(images)
        direction = self._direction(images, guessed, drawn["start"])
        distance = divergence(guessed.detach(), self._without_trace(images + settings.epsilon * direction))
        entropy = -distributed.mean((guessed.softmax(1) * F.log_softmax(guessed, 1)).sum(1))
        terms = settings.unlabeled_weight * drawn["rise"] * distance
        if settings.entropy_weight:
            terms = terms + settings.entropy_weight * entropy
        parts = {"divergence": distance, "entropy": entropy}
        return self.losses(logits, labeled.label, supervised, 1.0, terms, parts=parts)

    def _without_trace(self, images: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch classes"]:
        """Logits, with no trace in batch norm's running statistics."""
        with statistics_kept(self.network):
            return self.network(images).float()

    @eager
    def _direction(self, images: Tensor, guessed: Tensor, start: Tensor) -> Float[Tensor, "batch channels h w"]:
        settings = self.settings
        with statistics_kept(self.network):
            return adversarial_direction(
                self.network, images, guessed, start, xi=settings.xi, iterations=settings.power_iterations
            )
