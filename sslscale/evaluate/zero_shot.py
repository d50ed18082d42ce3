"""Class names as vectors in the space of an image and a text tower (CLIP, arXiv:2103.00020, section 3.1.4)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale.errors import ConfigError
from sslscale.evaluate.knn import nearest
from sslscale.nn.open_clip_towers import imagenet_names, template_set, tokenizer
from sslscale.nn.towers import TwoTowers
from sslscale.settings.text import TEMPLATE_SETS, ZeroShotConfig
from sslscale.shapes import Float, Int

_BATCH = 512


def sentences(config: ZeroShotConfig, classes: tuple[str, ...]) -> list[list[str]]:
    """The sentences of each class; raises ConfigError if its names do not fit the classes."""
    templates = [t for one in config.templates for t in (template_set(one) if one in TEMPLATE_SETS else [one])]
    words = dict(zip(classes, (name.replace("_", " ") for name in classes), strict=True))
    if config.names == "imagenet":
        names = imagenet_names()
        if len(classes) != len(names):
            raise ConfigError(f"names: imagenet: has names for {len(names):,} classes, the data has {len(classes):,}")
        words = dict(zip(sorted(classes), names, strict=True))
    elif config.names and not isinstance(config.names, str):
        given = dict(config.names)
        unknown = sorted(given.keys() - words.keys())
        if unknown:
            raise ConfigError(f"names: {unknown[0]!r} is not one of the {len(classes)} classes")
        words |= given
    return [[template.replace("{}", words[name]) for template in templates] for name in classes]


@torch.inference_mode()
def class_embeddings(towers: TwoTowers, texts: list[list[str]], device: torch.device) -> Float[Tensor, "classes dim"]:
    """The mean of the embeddings of a class's sentences, of length 1, for each class."""
    tokens = tokenizer(towers.config.context)([text for own in texts for text in own])
    found = embed_tokens(towers, tokens, device)
    means = [part.mean(0) for part in found.split([len(own) for own in texts])]
    return F.normalize(torch.stack(means), dim=1)


@torch.inference_mode()
def embed_tokens(
    towers: TwoTowers, tokens: Int[Tensor, "texts context"], device: torch.device
) -> Float[Tensor, "texts dim"]:
    """Embeddings of length 1 of tokenised texts, on the device, where the towers are."""
    return torch.cat([towers.embed_captions(part.to(device)) for part in tokens.split(_BATCH)])


class ImageTower(nn.Module):
    """The image tower alone, as a network that gives embeddings."""

    def __init__(self, towers: TwoTowers):
        super().__init__()
        self.towers = towers

    def forward(self, x: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch dim"]:
        return self.towers.embed_images(x)


@torch.inference_mode()
def recalls(
    queries: Float[Tensor, "queries dim"],
    bank: Float[Tensor, "bank dim"],
    query_ids: np.ndarray,
    bank_ids: np.ndarray,
    ranks: tuple[int, ...] = (1, 5, 10),
) -> dict[str, float]:
    """The share of queries with a right answer among the `rank` nearest rows of the bank, by cosine; an answer is right
    if its id is the query's."""
    _, place = nearest(bank, queries, max(ranks))
    right = torch.from_numpy(bank_ids[place.cpu().numpy()] == query_ids[:, None])
    return {f"recall_at_{rank}": right[:, :rank].any(1).float().mean().item() for rank in ranks}
