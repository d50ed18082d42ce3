"""SigLIP: a logistic regression for each pair of an image and a caption (arXiv:2303.15343, eq. 1)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale import distributed
from sslscale.losses import in_float32
from sslscale.methods.image_text import ImageTextMethod
from sslscale.methods.siglip import SigLIP
from sslscale.settings.model import ModelConfig
from sslscale.shapes import Bool, Float


@in_float32
def siglip_loss(
    images: Float[Tensor, "batch dim"],
    texts: Float[Tensor, "batch dim"],
    scale: Float[Tensor, " 1"],
    bias: Float[Tensor, " 1"],
    same: Bool[Tensor, "batch total"],
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch total"]]:
    """-1/B sum_ij log sigma(y_ij (scale x_i.t_j + bias)), y_ij 1 for an image and its own caption, else -1.

    Embeddings have length 1. i runs over this worker's images, j over the captions of all workers, so that the mean
    over the workers is the loss of the global batch. Also returns the logits.
    """
    logits = scale * images @ distributed.gather(texts).T + bias
    sign = 2 * same.float() - 1
    return -distributed.mean(F.logsigmoid(sign * logits).sum(1)), logits


class SigLIPMethod(ImageTextMethod):
    """Two towers, a scale and a bias."""

    has_bias = True

    def __init__(self, settings: SigLIP, model: ModelConfig):
        super().__init__(settings, model)
        assert self.towers.bias is not None
        torch.nn.init.constant_(self.towers.log_scale, math.log(settings.scale))
        torch.nn.init.constant_(self.towers.bias, settings.bias)

    def loss(
        self, images: Float[Tensor, "batch dim"], texts: Float[Tensor, "batch dim"], same: Bool[Tensor, "batch total"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "batch total"]]:
        assert self.towers.bias is not None
        return siglip_loss(images, texts, self.towers.log_scale.exp(), self.towers.bias, same)
