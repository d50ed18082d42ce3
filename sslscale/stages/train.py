"""Train one network by any method: on labelled images, on pseudo-labelled ones beside them, on images alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslscale import mirror
from sslscale.artifacts import Checkpoint, Clusters, Dataset, Embeddings, Selection, ShardSet
from sslscale.dag import RunContext
from sslscale.errors import ConfigError, DataError
from sslscale.recipes.features import TRAINING_SPLITS
from sslscale.recipes.train import TrainConfig


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


def train(
    ctx: RunContext,
    config: TrainConfig,
    *,
    data: Dataset,
    pseudo: ShardSet | None = None,
    selection: Selection | None = None,
    clusters: Clusters | None = None,
    features: Embeddings | None = None,
    init: Checkpoint | None = None,
    teacher: Checkpoint | None = None,
    at_least: Checkpoint | None = None,
) -> Checkpoint:
    """Train to the end, going on from the stage's last checkpoint if there is one.

    Pseudo-labelled images come as shards (`pseudo`), or are joined from a `selection` while reading. With `clusters`
    the labels are the images' clusters; with `features` each image comes with those. `init` gives the first weights: a
    classifier's, or a backbone's under a fresh classifier. `teacher` is a network that a distilling method learns from
    (its logits may come as `features` instead); `at_least` is one that this one must not be smaller than.
    """
    from sslscale import workers
    from sslscale.report.figures import learning_curves

    work = TrainWork(
        config=config,
        data=data.dir,
        pseudo=pseudo.dir if pseudo else None,
        selection=selection.dir if selection else None,
        shard_size=selection.shard_size if selection else 1000,
        selection_seed=selection.seed if selection else 0,
        clusters=clusters.dir if clusters else None,
        features=features.dir if features else None,
        splits=_splits(config.splits, clusters, features),
        init=init.dir if init else None,
        teacher=teacher.dir if teacher else None,
        at_least=at_least.num_parameters if at_least else 0,
    )
    result = workers.train_workers(train_worker, work, ctx)
    learning_curves(ctx.path)
    return Checkpoint(path=str(ctx.path), **result)


def _splits(wanted: tuple[str, ...], clusters: Clusters | None, features: Embeddings | None) -> tuple[str, ...]:
    """The training images that are wanted, or that the clusters are of; with features those that have some."""
    if clusters is not None:
        return clusters.splits
    return tuple(s for s in wanted if features is None or s in features.num_samples)


def train_worker(ctx: RunContext, work: TrainWork) -> dict[str, Any]:
    """Train on this worker; all workers run this, the main one writes."""
    import torch

    from sslscale import distributed
    from sslscale.data.loader import Stream
    from sslscale.data.reading import open_split
    from sslscale.evaluate.monitor import KnnMonitor
    from sslscale.methods.method import build_method
    from sslscale.nn.classifier import num_parameters
    from sslscale.train import checkpoint
    from sslscale.train.engine import best_device, set_up
    from sslscale.train.fit import fit
    from sslscale.train.strategy import build_engine

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
    last: dict[str, float] = {}

    def on_log(step: int, metrics: Mapping[str, float]) -> None:
        last.update(metrics)
        ctx.log(step, metrics)

    monitor = None
    if config.monitor_every and distributed.is_main() and (work.data / "labeled").is_dir():
        watched, images = open_split(ctx, work.data / "labeled", config.image, "skip")
        monitor = KnnMonitor(
            watched,
            images,
            config.image,
            device,
            num_images=config.monitor_images,
            seed=config.seed,
        )

    if config.continues is not None:
        _take_up(ctx, config.continues)
    steps = fit(
        engine,
        streams,
        folder=ctx.path / "state",
        on_resume=ctx.rewind,
        on_log=on_log,
        on_progress=lambda step, shown: ctx.progress(step, num_steps, **shown),
        on_save=ctx.keep,
        monitor=monitor,
        threads=ctx.threads,
    )
    trained = engine.network()  # on all workers: they may hold a part each
    everything = engine.state_dict()["method"] if config.keep_method else {}
    if distributed.is_main():
        info = checkpoint.describe_model(trained, config.model, config.image, classes)
        checkpoint.save_model(ctx.path, trained, info)
        if config.keep_method:
            checkpoint.save_method(ctx.path, everything)
        checkpoint.drop_states(ctx.path / "state")
        ctx.keep()
    shown = ("loss", "train_accuracy", "knn_accuracy", "images_per_s")
    return {
        "num_parameters": parameters,
        "step": steps,
        "metrics": {name: last[name] for name in shown if name in last},
    }


def _take_up(ctx: RunContext, place: str) -> None:
    """Make the state of another training the first of this one; raises DataError if it is not there."""
    import os
    import shutil
    import uuid

    source = ctx.root / place
    if ctx.store:
        mirror.at(ctx.store, ctx.root).pull(source)
    if not (source / "commit.json").exists():
        raise DataError(f"{ctx.name}: continues: there is no state {source}; was its search removed?")
    own = ctx.path / "state" / f"step-{int(place.rpartition('@')[2]):08d}"
    if any(own.parent.glob("step-*")):
        return  # it has gone on from there already
    temporary = own.with_name(f"tmp-{uuid.uuid4().hex[:8]}")
    shutil.copytree(source, temporary)
    try:
        os.replace(temporary, own)
    except OSError:  # another worker of this machine was first
        shutil.rmtree(temporary)


def _require_every_class(samples: Any, folder: Path) -> None:
    import numpy as np

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
    from sslscale.train.checkpoint import load_model

    network, info = load_model(folder)
    if info.classes != classes:
        raise ConfigError(f"{folder}: the teacher knows {len(info.classes)} classes, which are not the data's")
    if (info.image.mean, info.image.std) != (config.image.mean, config.image.std):
        own = f"image.mean {info.image.mean} and std {info.image.std}"
        raise ConfigError(f"{folder}: the teacher has {own}: the student must have the same")
    return network


def _open_streams(work: TrainWork, sizes: Mapping[str, int], tables: Path) -> dict[str, Any]:
    """The samples of each stream that the method asks for and the stage was given."""
    from sslscale.data.samples import open_clustered, open_described, open_images, open_samples, open_unlabeled
    from sslscale.data.selection import open_selected

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
