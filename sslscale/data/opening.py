"""The samples of a stream, opened from what a stage is given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sslscale.data.joined import (
    open_captioned,
    open_clips,
    open_clustered,
    open_described,
    open_heard,
    open_scenes,
    open_transcribed,
)
from sslscale.data.samples import Samples, open_images, open_samples, open_unlabeled
from sslscale.data.selection import open_selected
from sslscale.errors import DataError
from sslscale.graph.artifacts import Artifact, Captions, Clusters, Embeddings, Selection, Spectrograms, Transcripts
from sslscale.settings.streams import OBJECT_FIELDS, StreamSpec
from sslscale.settings.train import TrainConfig
from sslscale.storage.scratch import Local

Inputs = Mapping[str, Artifact]  # a stage's inputs by name; `data` is always there


def open_stream(spec: StreamSpec, inputs: Inputs, config: TrainConfig, local: Local | None = None) -> Samples:
    """The samples that a stream's specification names; raises DataError if there are none.

    `local` is a folder on this machine that remembers which shards were checked (see data.samples.open_samples).
    """
    data = inputs["data"].dir
    if set(spec.fields) & set(OBJECT_FIELDS):
        if spec.source == "pseudo":
            return open_scenes(data, ("unlabeled",), inputs["detections"].dir, local=local)
        if not (data / "labeled").is_dir():
            raise DataError(f"{data}: has no labelled images; pack them with data.source coco:... or voc:...")
        return open_scenes(data, ("labeled",), local=local).share(config.label_fraction, config.seed)
    if spec.source == "classified":
        return open_samples(inputs["classified"].dir / "labeled", local=local)
    if spec.source == "pseudo":
        return _pseudo(inputs, data, local)
    if "transcript" in spec.fields:
        transcripts = inputs["transcripts"]
        assert isinstance(transcripts, Transcripts)
        return open_transcribed(data, transcripts.dir, transcripts.alphabet, local=local)
    if spec.source == "labeled":
        labeled = _labeled(spec, inputs, data, local)
        _require_every_class(labeled, data / "labeled")
        return labeled.share(config.label_fraction, config.seed)
    if spec.source == "unlabeled":
        if "unlabeled" in config.splits and not (data / "unlabeled").is_dir():
            raise DataError(
                f"{data}: has no unlabelled images, which {config.method.name} learns from; hide labels with "
                "data.labels_per_class, or name the labelled ones alone (splits: [labeled])"
            )
        return open_unlabeled(data, config.splits, local=local)
    if "sound" in spec.fields:
        sound = inputs["sound"]
        assert isinstance(sound, Spectrograms)
        heard = tuple(split for split in config.splits if split in sound.num_clips)
        return open_heard(data, sound.dir, heard, sound.mels, local=local)
    if spec.clips:
        return open_clips(data, config.splits, local=local)
    if "text" in spec.fields:
        captions = inputs["captions"]
        assert isinstance(captions, Captions)
        captioned = tuple(split for split in config.splits if split in captions.num_samples)
        return open_captioned(data, captions.dir, captioned, local=local)
    if "features" not in spec.fields:
        return open_images(data, config.splits, labels="label" in spec.fields, local=local)
    features = inputs["features"]
    assert isinstance(features, Embeddings)
    described = tuple(split for split in config.splits if split in features.num_samples)
    return open_described(data, features.dir, described, local=local)


def _labeled(spec: StreamSpec, inputs: Inputs, data: Path, local: Local | None) -> Samples:
    clusters = inputs.get("clusters")
    if isinstance(clusters, Clusters):
        return open_clustered(data, clusters.dir, clusters.splits, local=local)
    if "teacher_logits" in spec.fields and "features" in inputs:
        return open_described(data, inputs["features"].dir, ("labeled",), labels=True, local=local)
    return open_samples(data / "labeled", local=local)


def _pseudo(inputs: Inputs, data: Path, local: Local | None) -> Samples:
    selection = inputs.get("selection")
    if isinstance(selection, Selection):
        unlabeled = data / "unlabeled"
        return open_selected(
            selection.dir, unlabeled, seed=selection.seed, shard_size=selection.shard_size, local=local
        )
    return open_samples(inputs["pseudo"].dir, local=local)


def _require_every_class(samples: Samples, folder: Path) -> None:
    classes = samples.index.classes
    missing = [classes[n] for n in np.flatnonzero(np.bincount(samples.labels, minlength=len(classes)) == 0)]
    if missing:
        more = f", nor have {len(missing) - 1} more classes" if len(missing) > 1 else ""
        raise DataError(
            f"{folder}: class {missing[0]!r} has no labelled image{more}; label one, or leave the class out"
        )
