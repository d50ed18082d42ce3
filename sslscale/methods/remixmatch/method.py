"""ReMixMatch: distribution alignment and augmentation anchoring (Berthelot et al. 2020, arXiv:1911.09785, algorithm 1).

The strong views are made by `views.strong`, or by CTAugment as in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data import geometry, rng
from sslscale.data.batch import Batch
from sslscale.data.mix import draw_partners, mix_parts
from sslscale.data.transfer import to_device
from sslscale.losses import linear_rise, sharpen, soft_cross_entropy
from sslscale.methods.method import ClassifierMethod, Losses, PseudoLabels
from sslscale.methods.remixmatch import ReMixMatch
from sslscale.nn.batch_norm import statistics_kept
from sslscale.nn.learned_augment import LearnedAugment
from sslscale.settings.model import ModelConfig
from sslscale.settings.train import TrainConfig
from sslscale.shapes import Float


def align(
    probs: Float[Tensor, "batch classes"], wanted: Float[Tensor, " classes"], found: Float[Tensor, " classes"]
) -> Float[Tensor, "batch classes"]:
    """Section 3.1: probs * wanted / found, normalised to a sum of 1."""
    ratio = probs * (wanted + 1e-6) / (found + 1e-6)
    return ratio / ratio.sum(1, keepdim=True)


class ReMixMatchMethod(ClassifierMethod):
    """A classifier and a linear head that tells how far an image was turned.

    Loss (eq. 4): H of mixed labelled images + weight * H of mixed unlabelled ones + unmixed_weight * H of the first
    strong view + rotation_weight * H of that view's turn; the two in the middle rise in a line at first.
    """

    predicted: Tensor
    known: Tensor

    def __init__(self, settings: ReMixMatch, model: ModelConfig, num_classes: int):
        super().__init__(settings, model, num_classes)
        self.settings = settings
        self.turn_head = nn.Linear(self.network.num_features, 4)
        self.learned = LearnedAugment() if settings.ctaugment else None
        # of the last batches: mean predictions, and mean labels
        self.register_buffer("predicted", torch.full((settings.batches, num_classes), 1 / num_classes))
        self.register_buffer("known", torch.full((settings.batches, num_classes), 1 / num_classes))

    def prepare(self, num_images: Mapping[str, int], config: TrainConfig, scratch: Path | None = None) -> None:
        super().prepare(num_images, config, scratch)
        if self.learned is not None:
            self.learned.prepare(config.image, config.seed)

    def draw(self, batch: Mapping[str, Batch]) -> Mapping[str, Tensor]:
        """What each image is mixed with, how much of itself it keeps, how far it is turned, and CTAugment's views."""
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        first, (weak, *strong) = labeled.views[0], unlabeled.views
        found: dict[str, Tensor] = {}
        if self.learned is not None:
            if self.training:
                self.learned.learn(
                    self.result, labeled.views[1], labeled.host_index, labeled.label, self.step_info.step
                )
            for number, view in enumerate(strong):
                found[f"strong_{number}"] = self.learned.strong(view, unlabeled.host_index, self.step_info.step, number)
            found["first"] = self.learned.strong(first, labeled.host_index, self.step_info.step, len(strong))
        sizes, seed = (
            [len(x) for x in (first, *strong, weak)],
            rng.stream_seed(self.seed, f"mixup {self.step_info.step}"),
        )
        found["share"], found["partner"] = draw_partners(sizes, self.settings.alpha, seed, labeled.index.device)
        numbers, seed = unlabeled.host_index, rng.stream_seed(self.seed, f"turns {self.step_info.step}")
        turn = (rng.uniforms(seed, torch.zeros_like(numbers), numbers, 1)[:, 0] * 4).long()
        return {**found, "turn": to_device(turn, weak.device)}

    def step(self, batch: Mapping[str, Batch], drawn: Mapping[str, Tensor]) -> Losses:
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        settings = self.settings
        first, (weak, *strong) = drawn.get("first", labeled.views[0]), unlabeled.views
        strong = [drawn.get(f"strong_{number}", view) for number, view in enumerate(strong)]
        truth = F.one_hot(labeled.label, self.num_classes).float()
        target = self._guess(weak, truth)
        parts = [(first, truth), *((view, target) for view in (*strong, weak))]
        mixed = mix_parts(parts, drawn["share"].to(target.dtype), drawn["partner"])
        turn = drawn["turn"]
        views = [*(images for images, _ in mixed), strong[0], geometry.quarter_turns(strong[0], turn)]
        features = self.network.dropout(self.network.backbone(torch.cat(views)))
        plain, turned = features.split([len(features) - len(turn), len(turn)])
        logits, others, unmixed = (
            self.network.head(plain).float().split([len(truth), (len(strong) + 1) * len(weak), len(weak)])
        )
        supervised = distributed.mean(soft_cross_entropy(logits, mixed[0][1]))
        own = distributed.mean(soft_cross_entropy(others, torch.cat([labels for _, labels in mixed[1:]])))
        anchored = distributed.mean(soft_cross_entropy(unmixed, target))
        rotation = distributed.mean(F.cross_entropy(self.turn_head(turned).float(), turn, reduction="none"))
        rise = linear_rise(self.step_info.progress, 0.0, settings.ramp)
        terms = (
            rise * (settings.unlabeled_weight * own + settings.unmixed_weight * anchored)
            + settings.rotation_weight * rotation
        )
        pseudo_labels = PseudoLabels(target.argmax(1), torch.ones_like(target[:, 0]))
        shown = {"unmixed_loss": anchored, "rotation_loss": rotation}
        return self.losses(logits, labeled.label, supervised, 1.0, terms, pseudo_labels, shown)

    @torch.no_grad()
    def _guess(
        self, weak: Float[Tensor, "batch channels h w"], truth: Float[Tensor, "labeled classes"]
    ) -> Float[Tensor, "batch classes"]:
        """The prediction for the weak view, aligned and sharpened."""
        with statistics_kept(self.network):
            probs = self.network(weak).float().softmax(1)
        if self.training:
            for queue, rows in ((self.predicted, probs), (self.known, truth)):
                queue.copy_(torch.cat([queue[1:], distributed.gather(rows).mean(0, keepdim=True)]))
        return sharpen(align(probs, self.known.mean(0), self.predicted.mean(0)), self.settings.temperature)
