"""What CLIP and SigLIP have in common: two towers, and the image-text pairs of the global batch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.methods.method import Losses, Method, StepInfo
from sslscale.nn.batch_norm import statistics_unmoved
from sslscale.nn.towers import build_towers
from sslscale.settings.kinds import ImageText
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Bool, Float, Int

MOST = math.log(100)  # of the logarithm of the factor of cosines


class ImageTextMethod(Method):
    """An image tower and a text tower, trained on captioned images. The checkpoint holds both."""

    has_bias = False

    def __init__(self, settings: ImageText, model: ModelConfig):
        super().__init__()
        self.settings = settings
        self.towers = build_towers(model, settings.text, has_bias=self.has_bias)

    def before_step(self, step_info: StepInfo) -> None:
        super().before_step(step_info)
        with torch.no_grad():  # after each update, as the authors' code does
            self.towers.log_scale.clamp_(0, MOST)

    @property
    def edited(self) -> tuple[Tensor, ...]:
        return (self.towers.log_scale,)

    def loss(
        self, images: Float[Tensor, "batch dim"], texts: Float[Tensor, "batch dim"], same: Bool[Tensor, "batch total"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "batch total"]]:
        """The loss of this worker's pairs, and its images' logits with the captions of all workers; `same` tells which
        of these are an image's own."""
        raise TypeError(f"{type(self).__name__} has no loss")

    def forward(self, batch: Mapping[str, Batch]) -> Losses:
        pairs = batch["images"]
        images, texts = self._embed(pairs.views[0], pairs.text)
        same = own_captions(pairs.text, self.settings.equal_captions == "positive")
        loss, logits = self.loss(images, texts, same)
        right = same.gather(1, logits.detach().argmax(1, keepdim=True))
        parts = {
            "loss": loss.detach(),
            "pair_accuracy": distributed.mean(right.float()),
            "scale": self.towers.log_scale.detach().exp()[0],
        }
        return Losses(loss, parts, images.detach())

    def _embed(
        self, images: Float[Tensor, "batch 3 h w"], tokens: Int[Tensor, "batch context"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]]:
        """Embeddings of pairs. In several parts, each is computed again in the backward pass, so that the activations
        of one part alone are in memory, while the loss sees the whole batch (Gao et al. 2021, arXiv:2101.06983)."""
        parts = min(self.settings.gradient_cache, len(images))
        if parts == 1:
            return self.towers.embed_images(images), self.towers.embed_captions(tokens)

        def both(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            return self.towers.embed_images(x), self.towers.embed_captions(t)

        def contexts() -> tuple[Any, Any]:
            return contextlib.nullcontext(), statistics_unmoved(self.towers)

        found = [
            checkpoint(both, x, t, use_reentrant=False, context_fn=contexts)
            for x, t in zip(images.tensor_split(parts), tokens.tensor_split(parts), strict=True)
        ]
        return torch.cat([x for x, _ in found]), torch.cat([t for _, t in found])

    @property
    def result(self) -> nn.Module:
        return self.towers


def own_captions(tokens: Int[Tensor, "batch context"], equal: bool) -> Bool[Tensor, "batch total"]:
    """Which captions of all workers' belong to each image of this worker: its own, and with `equal` all that are the
    same text."""
    every = distributed.gather(_digests(tokens))
    own = torch.arange(len(every), device=tokens.device)[None] == _places(tokens)[:, None]
    return own | (_digests(tokens)[:, None] == every[None]) if equal else own


def _places(x: Tensor) -> Int[Tensor, " batch"]:
    """The places of this worker's rows among all workers'."""
    return distributed.rows(len(x)).start + torch.arange(len(x), device=x.device)


def _digests(tokens: Int[Tensor, "batch context"]) -> Int[Tensor, " batch"]:
    """A hash of each text: a sum of its tokens, each times an odd number of its place, modulo 2^64."""
    place = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    odd = (place * 0x5851F42D4C957F2D + 0x14057B7EF767814F) | 1
    return (tokens * odd * (odd >> 7 | 1)).sum(1)
