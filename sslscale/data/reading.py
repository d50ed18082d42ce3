"""How stages read images that are only looked at: without augmentation, through the root's cache."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from sslscale.data.decode_once import SMALL
from sslscale.data.images import Images, bad_allowed
from sslscale.data.index import Index
from sslscale.data.samples import Samples, open_samples
from sslscale.data.shards import Shard, Shards
from sslscale.graph.context import RunContext
from sslscale.settings.model import ImageConfig


def open_split(ctx: RunContext, folder: Path, image: ImageConfig, on_bad_sample: str) -> tuple[Samples, Images]:
    """The labelled samples of a split whose images can be decoded, and these images."""
    samples = open_samples(folder, tables=ctx.root / "cache" / "shards")
    images = open_for_evaluation(ctx, samples.shards, image, bad_allowed(on_bad_sample, len(samples)))
    return samples.without(images.bad), images


def open_one(
    ctx: RunContext, index: Index, number: int, image: ImageConfig, on_bad_sample: str
) -> tuple[Shard, Images]:
    """One shard of many, and its images; of all of them so many may be bad.

    For stages that look at each image once: what is decoded already is read, and only small images are kept, which take
    hardly more room decoded and are looked at again by the next round.
    """
    alone = Shards(dataclasses.replace(index, shards=(index.shards[number],)), ctx.root / "cache" / "shards")
    images = open_for_evaluation(
        ctx, alone, image, bad_allowed(on_bad_sample, index.num_samples), keep=image.size <= SMALL
    )
    (shard,) = alone
    return shard, images


def open_for_evaluation(
    ctx: RunContext, shards: Shards, image: ImageConfig, max_bad: int, *, keep: bool = True
) -> Images:
    """Images as a network is evaluated on them; raises DataError if more than `max_bad` cannot be decoded.

    `keep` writes what it decodes into the root's cache.
    """
    return Images(
        shards,
        image.size,
        cache=ctx.root / "cache",
        cache_bytes=ctx.resources.cache_bytes,
        threads=ctx.threads,
        max_bad=max_bad,
        evaluation_crop=image.crop,
        keep=keep,
    )
