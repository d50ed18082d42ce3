"""What comes from open_clip: image towers by name, text towers of any size, CLIP's tokenizer. Nothing is downloaded."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sslscale.errors import ConfigError
from sslscale.settings.text import TextConfig, open_clip_config
from sslscale.shapes import Int


def build_image_tower(name: str) -> tuple[nn.Module, int]:
    """The image tower of an open_clip model without its last projection, and its number of features."""
    backbone, projection, text = build_both(name)
    width: Any = projection.in_features if isinstance(projection, nn.Linear) else text.output_dim
    return backbone, int(width)


def tokenizer(context: int) -> Callable[[Sequence[str]], Int[Tensor, "captions context"]]:
    """CLIP's byte-pair encoding: int64 (captions, context), zeros behind the end; longer captions are cut."""
    encode = _byte_pairs()

    def tokens(texts: Sequence[str]) -> Int[Tensor, "captions context"]:
        return encode(list(texts), context)

    return tokens


def count_tokens(text: str) -> int:
    """The tokens of a caption, its start and end among them."""
    return len(_byte_pairs().encode(text)) + 2


def text_of(tokens: Iterable[int]) -> str:
    """The text of a caption's tokens, in small letters."""
    encoding = _byte_pairs()
    return encoding.decode([int(t) for t in tokens if int(t) and int(t) not in encoding.all_special_ids]).strip()


@functools.cache
def _byte_pairs() -> Any:
    return _library().SimpleTokenizer()


def _library() -> Any:
    try:
        import open_clip
    except ImportError:
        raise ConfigError("captions need open_clip's tokenizer and text tower: pip install 'sslscale[clip]'") from None
    return open_clip


def build_both(name: str) -> tuple[nn.Module, nn.Module, nn.Module]:
    """An open_clip model's image tower, its projection into the common space, and its text tower."""
    found = open_clip_config(name)
    vision = {**found["vision_cfg"], "timm_model_pretrained": False}  # or timm would download its weights
    options = {key: value for key, value in found.items() if key in ("embed_dim", "quick_gelu", "init_logit_bias")}
    both = _library().CustomTextCLIP(vision_cfg=vision, text_cfg=found["text_cfg"], **options)
    return *_split(both.visual, both.text.output_dim), both.text


def _split(visual: Any, embed_dim: int) -> tuple[nn.Module, nn.Module]:
    """An image tower of open_clip's as backbone and projection; those that have none to be split off stay whole."""
    weight = getattr(visual, "proj", None)
    if not isinstance(weight, nn.Parameter):
        return visual, nn.Identity()
    projection = nn.Linear(weight.shape[0], embed_dim, bias=False)
    with torch.no_grad():
        projection.weight.copy_(weight.T)
    visual.proj = None
    return visual, projection


def build_text_tower(config: TextConfig) -> nn.Module:
    """A text transformer with first weights as CLIP's code has them."""
    _library()
    from open_clip.transformer import TextTransformer

    return TextTransformer(
        context_length=config.context,
        width=config.width,
        heads=config.heads,
        layers=config.depth,
        output_dim=config.embed_dim,
        no_causal_mask=not config.causal,
        pool_type="argmax" if config.causal else "last",
    )


def template_set(name: str) -> list[str]:
    """The sentences of a published set of templates, imagenet (80) or simple (7), with {} for the class."""
    library = _library()
    found = library.OPENAI_IMAGENET_TEMPLATES if name == "imagenet" else library.SIMPLE_IMAGENET_TEMPLATES
    return [template("{}") for template in found]


def imagenet_names() -> list[str]:
    """English names of ImageNet's 1,000 classes, in the order of their WordNet identifiers."""
    return list(_library().IMAGENET_CLASSNAMES)
