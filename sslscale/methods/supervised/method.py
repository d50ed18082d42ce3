"""Supervised training: the baseline and the first teacher."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sslscale import distributed
from sslscale.data import rng
from sslscale.data.batch import Batch
from sslscale.data.mix import Mixture, draw_mixture, mix
from sslscale.data.transfer import to_device
from sslscale.losses import smooth_labels, soft_cross_entropy
from sslscale.methods.method import ClassifierMethod, Losses
from sslscale.methods.supervised import Supervised
from sslscale.nn.batch_norm import statistics_kept
from sslscale.nn.eager import eager
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Float


class SupervisedMethod(ClassifierMethod):
    """Mean cross-entropy of the labelled batch, as it is, mixed, or changed against the network."""

    def __init__(self, settings: Supervised, model: ModelConfig, num_classes: int):
        super().__init__(settings, model, num_classes)
        self.settings = settings

    def draw(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """How the images are mixed, if they are, and which labels are replaced."""
        settings, images = self.settings, batch["labeled"].views[0]
        drawn: dict[str, Tensor] = {}
        if settings.label_noise:
            numbers = batch["labeled"].host_index
            noise = rng.uniforms(rng.stream_seed(self.seed, "label noise"), torch.zeros_like(numbers), numbers, 2)
            drawn["noise"] = to_device(noise, images.device)
        if not (settings.mixup or settings.cutmix):
            return drawn
        mixture = draw_mixture(
            distributed.total(len(images)),
            (images.shape[-2], images.shape[-1]),
            mixup_alpha=settings.mixup,
            cutmix_alpha=settings.cutmix,
            seed=rng.stream_seed(self.seed, f"mixture {self.step_info.step}"),
            device=images.device,
        )
        return drawn | mixture._asdict()

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        labeled, settings = batch["labeled"], self.settings
        images = labeled.views[0]
        label = labeled.label
        if settings.label_noise:
            replaced, other = drawn["noise"].unbind(1)
            label = torch.where(replaced < settings.label_noise, (other * self.num_classes).long(), label)
        target = smooth_labels(label, self.num_classes, settings.label_smoothing)
        if settings.mixup or settings.cutmix:
            images, target = mix(images, target, Mixture(**{name: drawn[name] for name in Mixture._fields}))
        logits = self.network(images)
        loss = distributed.mean(soft_cross_entropy(logits, target))
        parts = {"train_accuracy": distributed.mean((logits.detach().argmax(-1) == labeled.label).float())}
        if settings.adversarial:
            worse = distributed.mean(soft_cross_entropy(self.network(self._against(images, target)), target))
            parts |= {"clean_loss": loss.detach(), "adversarial_loss": worse.detach()}
            loss = (1 - settings.adversarial) * loss + settings.adversarial * worse
        return Losses(loss, {"loss": loss.detach(), **parts})

    @eager
    def _against(
        self, images: Float[Tensor, "batch channels h w"], target: Float[Tensor, "batch classes"]
    ) -> Float[Tensor, "batch channels h w"]:
        """x + epsilon sign(grad) or x + epsilon grad / |grad|, of the image's loss (arXiv:1412.6572, section 4).

        The pass that finds the gradient leaves no trace in batch norm's running statistics.
        """
        with torch.enable_grad(), statistics_kept(self.network):
            changed = images.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(soft_cross_entropy(self.network(changed), target).sum(), changed)
        if self.settings.norm == "linf":
            direction = gradient.sign()
        else:
            direction = gradient / gradient.square().sum((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)
        return (images + self.settings.epsilon * direction).detach()
