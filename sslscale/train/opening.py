"""A training, opened: its streams, its method with the first weights, and the engine that trains it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sslscale import distributed
from sslscale.data.loader import Stream
from sslscale.data.samples import open_clustered, open_described, open_images, open_samples, open_unlabeled
from sslscale.data.selection import open_selected
from sslscale.errors import ConfigError, DataError
from sslscale.graph.dag import RunContext
from sslscale.methods.method import build_method
from sslscale.nn.classifier import num_parameters
from sslscale.settings.features import TRAINING_SPLITS
from sslscale.settings.train import TrainConfig
from sslscale.train import checkpoint
from sslscale.train.engine import Engine, best_device, set_up
from sslscale.train.strategy import build_engine


@dataclass(frozen=True, kw_only=True)
class TrainWork:
    """What each training worker is given: paths and settings, nothing heavy."""

    config: TrainConfig
    data: Path
    pseudo: Path | None = None
    selection: Path | None = None
    shard_size: int = 1000
    selection_seed: int = 0
    clusters: Path | None = None
    features: Path | None = None
    splits: tuple[str, ...] = TRAINING_SPLITS
    init: Path | None = None
    teacher: Path | None = None
    at_least: int = 0


@dataclass(frozen=True)
class Training:
    """What a worker trains with. `first` is the stream whose images an epoch counts."""

    engine: Engine
    streams: Mapping[str, Stream]
    first: str
    num_parameters: int

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the labels that are learned."""
        return self.streams[self.first].samples.index.classes


def open_training(ctx: RunContext, work: TrainWork) -> Training:
    """Open the streams, build the method and the engine, on every worker alike; raises ConfigError and DataError."""
    config = work.config
    if config.method.needs_teacher != (work.teacher is not None or _logits_given(work)):
        missing = "a teacher, or its logits, which it has none of" if config.method.needs_teacher else "no teacher"
        raise ConfigError(f"{ctx.name}: {config.method.name} needs {missing}")
    torch.set_num_threads(ctx.threads)
    cache, device = ctx.root / "cache", best_device(ctx.resources)
    set_up(device, deterministic=config.deterministic)
    sizes = config.method.batch_sizes(config.batch_size)
    samples = _open_streams(work, sizes, cache / "shards")
    if sizes.keys() != samples.keys():
        raise ConfigError(f"{ctx.name}: {config.method.name} reads {sorted(sizes)}, but is given {sorted(samples)}")
    first = next(iter(sizes))
    classes = samples[first].index.classes
    features = samples[first].features
    outputs = len(classes) if features is None else features.dim
    streams = {
        name: Stream(
            name,
            samples[name],
            batch_size=size,
            seed=config.seed,
            image=config.image,
            views=config.views(name),
            cache=cache,
            cache_bytes=ctx.resources.cache_bytes,
            threads=ctx.threads,
            device=device,
            on_bad_sample=config.on_bad_sample,
        )
        for name, size in sizes.items()
    }
    torch.manual_seed(config.seed)  # the same first weights on every worker
    method = build_method(config.method, config.model, outputs)
    scratch = ctx.path / "state" / f"memory-{distributed.rank()}"
    method.prepare({name: len(stream) for name, stream in streams.items()}, config, scratch)
    network = method.result
    parameters = num_parameters(network)
    if parameters < work.at_least:
        raise ConfigError(
            f"{ctx.name}: {config.model.name} has {parameters:,} weights, its teacher {work.at_least:,}: "
            "Noisy Student's students are equal to their teacher or larger"
        )
    if work.init is not None:
        checkpoint.initialize_method(method, work.init, classes)
    if work.teacher is not None:
        method.teach(_teacher(work.teacher, config, classes))  # pyright: ignore[reportCallIssue]
    elif config.method.needs_teacher and outputs != len(classes):
        raise ConfigError(f"{ctx.name}: the teacher's logits are of {outputs} classes, the data has {len(classes)}")
    num_steps = config.steps(len(streams[first]))
    engine = build_engine(method, config, num_steps, device, ctx.resources)
    return Training(engine, streams, first, parameters)


def _require_every_class(samples: Any, folder: Path) -> None:
    classes = samples.index.classes
    missing = [classes[n] for n in np.flatnonzero(np.bincount(samples.labels, minlength=len(classes)) == 0)]
    if missing:
        more = f", nor have {len(missing) - 1} more classes" if len(missing) > 1 else ""
        raise DataError(
            f"{folder}: class {missing[0]!r} has no labelled image{more}; label one, or leave the class out"
        )


def _logits_given(work: TrainWork) -> bool:
    return work.features is not None and "labeled" in work.config.method.batch_sizes(1)


def _teacher(folder: Path, config: TrainConfig, classes: tuple[str, ...]) -> Any:
    """A classifier of the same classes that is fed images as the student is."""
    network, info = checkpoint.load_model(folder)
    if info.classes != classes:
        raise ConfigError(f"{folder}: the teacher knows {len(info.classes)} classes, which are not the data's")
    if (info.image.mean, info.image.std) != (config.image.mean, config.image.std):
        own = f"image.mean {info.image.mean} and std {info.image.std}"
        raise ConfigError(f"{folder}: the teacher has {own}: the student must have the same")
    return network


def _open_streams(work: TrainWork, sizes: Mapping[str, int], tables: Path) -> dict[str, Any]:
    """The samples of each stream that the method asks for and the stage was given."""
    samples = {}
    if "labeled" in sizes:
        if _logits_given(work):
            assert work.features is not None
            labeled = open_described(work.data, work.features, ("labeled",), labels=True, tables=tables)
        elif work.clusters is None:
            labeled = open_samples(work.data / "labeled", tables=tables)
        else:
            labeled = open_clustered(work.data, work.clusters, work.splits, tables=tables)
        _require_every_class(labeled, work.data / "labeled")
        samples["labeled"] = labeled.share(work.config.label_fraction, work.config.seed)
    if "images" in sizes:
        if work.features is None:
            samples["images"] = open_images(work.data, work.splits, tables=tables)
        else:
            samples["images"] = open_described(work.data, work.features, work.splits, tables=tables)
    if "unlabeled" in sizes:
        if "unlabeled" in work.config.splits and not (work.data / "unlabeled").is_dir():
            raise DataError(
                f"{work.data}: has no unlabelled images, which {work.config.method.name} learns from; hide labels with "
                "data.labels_per_class, or name the labelled ones alone (splits: [labeled])"
            )
        samples["unlabeled"] = open_unlabeled(work.data, work.splits, tables=tables)
    if "mixed" in sizes:
        samples["mixed"] = open_images(work.data, work.splits, labels=True, tables=tables)
    if work.pseudo is not None:
        samples["pseudo"] = open_samples(work.pseudo, tables=tables)
    elif work.selection is not None:
        samples["pseudo"] = open_selected(
            work.selection,
            work.data / "unlabeled",
            seed=work.selection_seed,
            shard_size=work.shard_size,
            tables=tables,
        )
    return samples
