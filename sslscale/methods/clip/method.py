"""CLIP: images and captions find each other in the global batch (arXiv:2103.00020, figure 3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sslscale import distributed
from sslscale.losses import in_float32, soft_cross_entropy
from sslscale.methods.clip import CLIP
from sslscale.methods.image_text import ImageTextMethod
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Bool, Float


@in_float32
def clip_loss(
    images: Float[Tensor, "batch dim"],
    texts: Float[Tensor, "batch dim"],
    scale: Float[Tensor, " 1"],
    same: Bool[Tensor, "batch total"],
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch total"]]:
    """Half the sum of two cross-entropies: of each image over all captions, of each caption over all images.

    Embeddings have length 1; logits are scale * cosine, with the rows of all workers. Where several captions are an
    image's own, the target is spread evenly over them. Returns the mean over this worker's pairs, and the logits.
    """
    of_images = scale * images @ distributed.gather(texts).T
    of_texts = scale * texts @ distributed.gather(images).T
    target = same / same.sum(1, keepdim=True)  # equal texts are equal both ways
    total = soft_cross_entropy(of_images, target) + soft_cross_entropy(of_texts, target)
    return distributed.mean(total) / 2, of_images


class CLIPMethod(ImageTextMethod):
    """Two towers and a temperature."""

    def __init__(self, settings: CLIP, model: ModelConfig):
        super().__init__(settings, model)
        torch.nn.init.constant_(self.towers.log_scale, -math.log(settings.temperature))

    def loss(
        self, images: Float[Tensor, "batch dim"], texts: Float[Tensor, "batch dim"], same: Bool[Tensor, "batch total"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "batch total"]]:
        return clip_loss(images, texts, self.towers.log_scale.exp(), same)
