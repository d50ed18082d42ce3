"""FixMatch: learn for strong views what the weak ones say with confidence (Sohn et al. 2020, arXiv:2001.07685)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from sslscale import distributed
from sslscale.data import ctaugment, geometry, rng
from sslscale.data.ctaugment import CTAugment, Policy
from sslscale.data.loader import Batch
from sslscale.losses import hard_consistency
from sslscale.methods.method import ClassifierMethod, Guess, Losses
from sslscale.nn.classifier import together
from sslscale.recipes.fixmatch import FixMatch
from sslscale.recipes.model import ModelConfig
from sslscale.recipes.train import TrainConfig

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


def fixmatch_loss(
    weak: Float[Tensor, "batch classes"], strong: Float[Tensor, "batch classes"], threshold: float
) -> tuple[Float[Tensor, ""], Guess]:
    """Eq. 4: 1(max q >= threshold) H(argmax q, p_strong), the mean over the batch, with q = softmax(weak), through
    which no gradient flows."""
    confidence, label = weak.detach().softmax(1).max(1)
    kept = (confidence >= threshold).float()
    return hard_consistency(strong, label, kept), Guess(label, kept)


class FixMatchMethod(ClassifierMethod):
    """Cross-entropy of labelled images, and of strong views to the confident classes of the weak ones.

    With CTAugment (section 2.3) the strong view is made here, since its operations' rates are learned: each step a
    second view of the labelled images is distorted at random, and the rates follow how well it is still known.
    """

    rates: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, recipe: FixMatch, model: ModelConfig, num_classes: int):
        super().__init__(recipe, model, num_classes)
        self.recipe = recipe
        self._policies = CTAugment() if recipe.ctaugment else None
        if self._policies is not None:
            self.register_buffer("rates", self._policies.rates)
            self.register_buffer("mean", torch.zeros(3, 1, 1), persistent=False)
            self.register_buffer("std", torch.ones(3, 1, 1), persistent=False)

    def prepare(self, num_images: Mapping[str, int], config: TrainConfig, scratch: Path | None = None) -> None:
        super().prepare(num_images, config, scratch)
        if self._policies is not None:
            self.mean = torch.tensor(config.image.mean).view(3, 1, 1)
            self.std = torch.tensor(config.image.std).view(3, 1, 1)

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        assert labeled.label is not None
        first, second = unlabeled.views
        if self._policies is not None:
            if self.training:
                self._probe(self._policies, labeled.views[1], labeled.index, labeled.label)
            second = self._distorted(self._policies, second, unlabeled.index)
        logits, weak, strong = together(self.network, labeled.views[0], first, second)
        supervised = F.cross_entropy(logits, labeled.label)
        own, guess = fixmatch_loss(weak, strong, self.recipe.threshold)
        return self.losses(logits, labeled.label, supervised, self.recipe.unlabeled_weight, own, guess)

    @torch.no_grad()
    def _distorted(
        self, policies: CTAugment, view: Float[Tensor, "batch 3 h w"], index: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 h w"]:
        """Drawn by the rates, then cutout of half the side (section 2.3)."""
        draws = self._draws("strong", index, policies.num_draws + 2)
        images = ctaugment.apply(self._pixels(view), policies.policy(draws[:, 2:], probe=False))
        half = torch.full((len(images),), view.shape[-1] // 4, device=view.device)
        x, y = draws[:, :2].to(view.device).unbind(1)
        return self._normalized(geometry.cutout(images, x, y, half, fill=ctaugment.FILL), view)

    @torch.no_grad()
    def _probe(
        self,
        policies: CTAugment,
        view: Float[Tensor, "batch 3 h w"],
        index: Int[Tensor, " batch"],
        label: Int[Tensor, " batch"],
    ) -> None:
        policy = policies.policy(self._draws("probe", index, policies.num_draws), probe=True)
        probe = self._normalized(ctaugment.apply(self._pixels(view), policy), view)
        network = self.result
        training = network.training
        probs = network.eval()(probe).float().softmax(1)
        network.train(training)
        closeness = 1 - 0.5 * (probs - F.one_hot(label, self.num_classes)).abs().sum(1)
        parts = (policy.operation, policy.level, policy.place, closeness)
        operation, level, place, closeness = (distributed.gather(x.to(view.device)).cpu() for x in parts)
        policies.rates = self.rates.cpu()
        policies.update(Policy(operation, level, place), closeness)
        self.rates.copy_(policies.rates)

    def _draws(self, name: str, index: Int[Tensor, " batch"], count: int) -> Float[Tensor, "batch count"]:
        numbers = index.cpu()
        step = torch.full_like(numbers, self.now.step)
        return rng.uniforms(rng.stream_seed(self.seed, f"ctaugment {name}"), step, numbers, count)

    def _pixels(self, view: Tensor) -> Tensor:
        pixels = ((view.float() * self.std + self.mean) * 255).round().clamp(0, 255)
        return pixels.to(torch.uint8, memory_format=torch.contiguous_format)

    def _normalized(self, images: Tensor, like: Tensor) -> Tensor:
        return ((images.float() / 255 - self.mean) / self.std).to(like.dtype)
