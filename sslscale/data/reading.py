"""How stages read images that are only looked at: without augmentation, through this machine's cache."""

from __future__ import annotations

from pathlib import Path

from sslscale.data.decode_once import SMALL
from sslscale.data.images import Images
from sslscale.data.index import Index
from sslscale.data.samples import Samples, open_samples
from sslscale.data.shard import Shard
from sslscale.data.shards import Shards
from sslscale.graph.context import RunContext
from sslscale.settings.model import ImageConfig


def open_split(ctx: RunContext, folder: Path, image: ImageConfig) -> tuple[Samples, Images]:
    """The labelled samples of a split, and their images."""
    samples = open_samples(folder, local=ctx.local)
    return samples, open_for_evaluation(ctx, samples.shards, image)


def open_one(ctx: RunContext, index: Index, number: int, image: ImageConfig) -> tuple[Shard, Images]:
    """One shard of many, and its images.

    For stages that look at each image once: what is decoded already is read, and only small images are kept, which take
    hardly more room decoded and are looked at again by the next round.
    """
    alone = Shards(index.only(number), ctx.local)
    images = open_for_evaluation(ctx, alone, image, keep=image.size <= SMALL)
    (shard,) = alone
    return shard, images


def open_for_evaluation(ctx: RunContext, shards: Shards, image: ImageConfig, *, keep: bool = True) -> Images:
    """Images as a network is evaluated on them; raises DataError if a shard or an image is damaged.

    `keep` writes what it decodes into this machine's cache.
    """
    images = Images(
        shards,
        image.size,
        cache=ctx.local.folder,
        cache_bytes=ctx.resources.cache_bytes,
        threads=ctx.threads,
        evaluation_crop=image.crop,
        width=image.width,
        pixels=image.pixels,
        keep=keep,
    )
    images.make()
    return images
