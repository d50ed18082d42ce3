"""Images with what stages have made of them: clusters, features, tokens, characters, spectrograms, objects."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sslscale.data.captions import Captions, usable
from sslscale.data.features import Features, read_clusters
from sslscale.data.index import Index
from sslscale.data.objects import FoundObjects, StoredObjects
from sslscale.data.samples import Samples, open_images
from sslscale.data.shards import Shards
from sslscale.data.sound import Spectra
from sslscale.errors import DataError
from sslscale.storage.scratch import Local


def open_clustered(folder: Path, clusters: Path, splits: Sequence[str], *, local: Local | None = None) -> Samples:
    """The images of these splits with their cluster as the label."""
    samples = open_images(folder, splits, local=local)
    labels = read_clusters(clusters, splits)
    if len(labels) != len(samples):
        raise DataError(f"{clusters}: has {len(labels):,} clustered images, {folder} has {len(samples):,}")
    classes = tuple(f"cluster {number}" for number in range(int(labels.max()) + 1))
    index = dataclasses.replace(samples.index, classes=classes)
    return dataclasses.replace(samples, index=index, labels=labels)


def open_described(
    folder: Path, features: Path, splits: Sequence[str], *, labels: bool = False, local: Local | None = None
) -> Samples:
    """The images of these splits with the features that a network made of them, and the labels that are known."""
    samples, found = open_images(folder, splits, labels=labels, local=local), Features(features, splits)
    sizes = [info.samples for info in samples.index.shards]
    if sizes != [rows for rows, _ in found.shapes]:
        raise DataError(f"{features}: its features are not those of the images of {folder}")
    return dataclasses.replace(samples, features=found)


def open_captioned(folder: Path, captions: Path, splits: Sequence[str], *, local: Local | None = None) -> Samples:
    """The images of these splits that have a usable caption, with its tokens."""
    samples, found = open_images(folder, splits, local=local), Captions(captions, splits)
    sizes = [info.samples for info in samples.index.shards]
    if sizes != [rows for rows, _ in found.shapes]:
        raise DataError(f"{captions}: its captions are not those of the images of {folder}")
    return dataclasses.replace(samples, captions=found).keep(usable(captions, splits))


def open_clips(folder: Path, splits: Sequence[str], *, local: Local | None = None) -> Samples:
    """The clips of the videos in these splits, without labels. Raises DataError for images that are none."""
    samples = open_images(folder, splits, local=local)
    if samples.index.frames == 1:
        raise DataError(f"{folder}: holds images, not clips of videos: pack a folder of videos with data.video")
    return as_clips(samples, samples.index.frames)


def open_scenes(
    folder: Path, splits: Sequence[str], found: Path | None = None, *, local: Local | None = None
) -> Samples:
    """The images of these splits with their annotated objects, or with those that a detector found in them."""
    samples = open_images(folder, splits, local=local)
    if found is not None:
        return dataclasses.replace(samples, objects=FoundObjects(found, len(samples.index.classes)))
    return dataclasses.replace(samples, objects=StoredObjects(samples.shards))


def open_shard(index: Index, number: int, *, local: Local | None = None) -> Samples:
    """The images of one shard of a set, whatever the number of the others, without labels."""
    alone = index.only(number)
    count = alone.num_samples
    return Samples(alone, Shards(alone, local), np.full(count, -1, np.int8), [count])


def open_transcribed(
    folder: Path, transcripts: Path, alphabet: tuple[str, ...], *, local: Local | None = None
) -> Samples:
    """The labelled lines that have a usable transcript, with its characters; the classes are the alphabet."""
    splits = ("labeled",)
    samples, found = open_images(folder, splits, local=local), Captions(transcripts, splits)
    sizes = [info.samples for info in samples.index.shards]
    if sizes != [rows for rows, _ in found.shapes]:
        raise DataError(f"{transcripts}: its transcripts are not those of the lines of {folder}")
    index = dataclasses.replace(samples.index, classes=alphabet)
    return dataclasses.replace(samples, index=index, captions=found).keep(usable(transcripts, splits))


def open_heard(folder: Path, sound: Path, splits: Sequence[str], mels: int, *, local: Local | None = None) -> Samples:
    """The clips of the videos in these splits that have sound, with its spectrogram."""
    samples = open_clips(folder, splits, local=local)
    found = Spectra(sound, tuple(splits), mels, samples.frames)
    if samples.block_sizes != [rows for rows, _ in found.shapes]:
        raise DataError(f"{sound}: its spectrograms are not those of the clips of {folder}")
    return dataclasses.replace(samples, sound=found).keep(usable(sound, splits))


def as_clips(samples: Samples, frames: int) -> Samples:
    """So many samples after one another as one, without labels; raises DataError if a shard holds a part of one."""
    sizes = [info.samples for info in samples.index.shards]
    wrong = [info.file for info, size in zip(samples.index.shards, sizes, strict=True) if size % frames]
    if wrong:
        raise DataError(f"{wrong[0]}: holds a clip with fewer than {frames} frames: pack the videos again")
    first = np.arange(0, sum(sizes), frames)
    shard, row = samples.places(first)
    return dataclasses.replace(
        samples,
        labels=samples.labels[first],
        block_sizes=[size // frames for size in sizes],
        order=(shard.astype(np.int32), row.astype(np.int32)),
        frames=frames,
    )
