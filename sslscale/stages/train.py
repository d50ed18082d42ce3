"""Train one network by any method: on labelled images, on pseudo-labelled ones beside them, on images alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sslscale.errors import DataError
from sslscale.graph.artifacts import Checkpoint, Clusters, Dataset, Embeddings, Selection, ShardSet
from sslscale.graph.dag import RunContext
from sslscale.settings.train import TrainConfig
from sslscale.storage import mirror

if TYPE_CHECKING:
    from sslscale.train.opening import TrainWork


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
    from sslscale.cluster import workers
    from sslscale.report.figures import learning_curves

    inputs = {"pseudo": pseudo, "selection": selection, "clusters": clusters, "features": features}
    inputs |= {"init": init, "teacher": teacher, "at_least": at_least}
    work = make_work(config, data=data, **inputs)  # pyright: ignore[reportArgumentType]
    result = workers.train_workers(train_worker, work, ctx)
    learning_curves(ctx.path)
    return Checkpoint(path=str(ctx.path), **result)


def make_work(
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
) -> TrainWork:
    """What the workers of a training are given, of the stages that it reads."""
    from sslscale.train.opening import TrainWork

    return TrainWork(
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


def _splits(wanted: tuple[str, ...], clusters: Clusters | None, features: Embeddings | None) -> tuple[str, ...]:
    """The training images that are wanted, or that the clusters are of; with features those that have some."""
    if clusters is not None:
        return clusters.splits
    return tuple(s for s in wanted if features is None or s in features.num_samples)


def train_worker(ctx: RunContext, work: TrainWork) -> dict[str, Any]:
    """Train on this worker; all workers run this, the main one writes."""
    from sslscale import distributed
    from sslscale.data.reading import open_split
    from sslscale.evaluate.monitor import KnnMonitor
    from sslscale.train import checkpoint
    from sslscale.train.fit import fit
    from sslscale.train.opening import open_training

    config = work.config
    training = open_training(ctx, work)
    engine, num_steps = training.engine, training.engine.num_steps
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
            engine.device,
            num_images=config.monitor_images,
            seed=config.seed,
        )

    if config.continues is not None:
        _take_up(ctx, config.continues)
    steps = fit(
        engine,
        training.streams,
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
        info = checkpoint.describe_model(trained, config.model, config.image, training.classes)
        checkpoint.save_model(ctx.path, trained, info)
        if config.keep_method:
            checkpoint.save_method(ctx.path, everything)
        checkpoint.drop_states(ctx.path / "state")
        ctx.keep()
    shown = ("loss", "train_accuracy", "knn_accuracy", "images_per_s")
    return {
        "num_parameters": training.num_parameters,
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
