"""An image tower and a text tower that share a space (CLIP, Radford et al. 2021, arXiv:2103.00020, section 2.4).

The text tower and its tokenizer are open_clip's. The image tower is any network of ours, or open_clip's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale.nn.classifier import Classifier, build_backbone
from sslscale.nn.heads import CosineHead
from sslscale.nn.open_clip_towers import build_both, build_text_tower
from sslscale.settings.model import ModelConfig
from sslscale.settings.text import PREFIX, TextConfig, text_config
from sslscale.shapes import Float, Int


class TwoTowers(nn.Module):
    """Embeddings of images and of captions, of length 1 in one space; and what makes their cosines logits.

    `log_scale` is the logarithm of the factor, `bias` what is added to it (SigLIP alone).
    """

    def __init__(
        self, backbone: nn.Module, projection: nn.Module, text: nn.Module, config: TextConfig, *, has_bias: bool
    ):
        super().__init__()
        self.config = config
        self.backbone, self.projection, self.text = backbone, projection, text
        # of one element each: FSDP and ZeRO do not cut numbers without a dimension
        self.log_scale = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(1)) if has_bias else None

    def embed_images(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch dim"]:
        """Embeddings of normalised images, float32."""
        return F.normalize(self.projection(self.backbone(x)).float(), dim=1)

    def embed_captions(self, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch dim"]:
        """Embeddings of captions, float32."""
        return F.normalize(self.text(tokens).float(), dim=1)


def build_towers(model: ModelConfig, text: TextConfig, *, has_bias: bool = False) -> TwoTowers:
    """Build both towers with first weights of torch's global generator; raises ConfigError without open_clip."""
    config = text_config(model.name, text)
    if model.name.startswith(PREFIX):
        return TwoTowers(*build_both(model.name.removeprefix(PREFIX)), config, has_bias=has_bias)
    backbone, width = build_backbone(model)
    projection = nn.Linear(width, config.embed_dim, bias=False)
    nn.init.normal_(projection.weight, std=width**-0.5)
    return TwoTowers(backbone, projection, build_text_tower(config), config, has_bias=has_bias)


def classifier_of(towers: TwoTowers, classes: Float[Tensor, "classes dim"], scale: Float[Tensor, " 1"]) -> Classifier:
    """The image tower as a classifier: scale * cos(image, class)."""
    dim, projection = classes.shape[1], towers.projection
    width = projection.in_features if isinstance(projection, nn.Linear) else dim
    head = CosineHead(width, dim, len(classes))
    with torch.no_grad():
        head.projection.weight.copy_(projection.weight if isinstance(projection, nn.Linear) else torch.eye(dim))
        head.classes.copy_(classes)
        head.scale.copy_(scale)
    return Classifier(towers.backbone, width, head)
