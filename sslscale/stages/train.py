"""Train one network by any method: on labelled images, on pseudo-labelled ones beside them, on images alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sslscale.errors import DataError
from sslscale.graph.artifacts import (
    Captions,
    Checkpoint,
    Clusters,
    Dataset,
    Detections,
    Embeddings,
    Selection,
    ShardSet,
    Spectrograms,
    Transcripts,
)
from sslscale.graph.context import RunContext
from sslscale.settings.train import TrainConfig
from sslscale.storage import mirror

if TYPE_CHECKING:
    from sslscale.data.opening import Inputs
    from sslscale.train.opening import Training


def train(
    ctx: RunContext,
    config: TrainConfig,
    *,
    data: Dataset,
    pseudo: ShardSet | None = None,
    selection: Selection | None = None,
    clusters: Clusters | None = None,
    features: Embeddings | None = None,
    captions: Captions | None = None,
    sound: Spectrograms | None = None,
    transcripts: Transcripts | None = None,
    detections: Detections | None = None,
    classified: Dataset | None = None,
    init: Checkpoint | None = None,
    teacher: Checkpoint | None = None,
    at_least: Checkpoint | None = None,
) -> Checkpoint:
    """Train to the end, going on from the stage's last checkpoint if there is one.

    Pseudo-labelled images come as shards (`pseudo`), or are joined from a `selection` while reading. With `clusters`
    the labels are the images' clusters; with `features` each image comes with those, with `captions` with the tokens of
    its caption, with `sound` each clip with its spectrogram, with `transcripts` each labelled line with its characters;
    with `detections` unlabelled images come with the objects that a detector found in them; `classified` are labelled
    images of another data set.
    `init` gives the first weights: a classifier's, or a backbone's under a fresh classifier. `teacher` is a network
    that a distilling method learns from (its logits may come as `features` instead); `at_least` is one that this one
    must not be smaller than.
    """
    from sslscale.cluster import workers
    from sslscale.report.figures import learning_curves

    given = {"data": data, "pseudo": pseudo, "selection": selection, "clusters": clusters, "features": features}
    given |= {"captions": captions, "sound": sound, "transcripts": transcripts, "detections": detections}
    given |= {"classified": classified}
    given |= {"init": init, "teacher": teacher, "at_least": at_least}
    inputs = {name: artifact for name, artifact in given.items() if artifact is not None}
    result = workers.train_workers(train_worker, (config, inputs), ctx)
    learning_curves(ctx.path)
    return Checkpoint(path=str(ctx.path), **result)


def train_worker(ctx: RunContext, work: tuple[TrainConfig, Inputs]) -> dict[str, Any]:
    """Train on this worker; all workers run this, the main one writes."""
    from sslscale import distributed
    from sslscale.train import checkpoint
    from sslscale.train.fit import fit
    from sslscale.train.opening import open_training
    from sslscale.train.recorder import StageRecorder

    config, inputs = work
    training = open_training(ctx, config, inputs)
    engine = training.engine
    if config.continues is not None:
        _take_up(ctx, config.continues)
    recorder = StageRecorder(ctx, engine.num_steps, config.image)
    monitor = _monitor(ctx, config, inputs, engine.device)
    hung_after_s = 0.9 * ctx.resources.timeout_s if distributed.world_size() > 1 else None
    steps = fit(
        engine,
        training.streams,
        recorder=recorder,
        monitor=monitor,
        threads=ctx.threads,
        hung_after_s=hung_after_s,
    )
    _draw(ctx, training)
    trained = engine.network()  # on all workers: they may hold a part each
    everything = engine.state_dict()["method"] if config.keep_method else {}
    if distributed.is_main():
        info = checkpoint.describe_model(trained, config.model, config.image, training.classes)
        checkpoint.save_model(ctx.path, trained, info)
        if config.keep_method:
            checkpoint.save_method(ctx.path, everything)
        checkpoint.drop_states(ctx.path / "state")
        ctx.push()
    shown = ("loss", "train_accuracy", "knn_accuracy", "images_per_s")
    return {
        "num_parameters": training.num_parameters,
        "step": steps,
        "metrics": {name: recorder.last[name] for name in shown if name in recorder.last},
    }


def _draw(ctx: RunContext, training: Training) -> None:
    """A figure of what the method solves, if it has one; not where weights are spread over the workers."""
    from sslscale import distributed
    from sslscale.data.loader import Loader
    from sslscale.methods.method import Method
    from sslscale.report.views import draw_pictures

    method = training.engine.method
    if type(method).pictures is Method.pictures or ctx.resources.strategy != "ddp":
        return
    rows = method.pictures(next(iter(Loader(training.streams, 1, threads=ctx.threads))))
    if distributed.is_main():
        draw_pictures(ctx.path / "pictures.png", rows)


def _monitor(ctx: RunContext, config: TrainConfig, inputs: Inputs, device: Any) -> Any:
    """What judges the network during training, on the main worker; None if nothing does."""
    from sslscale import distributed
    from sslscale.data.reading import open_split
    from sslscale.evaluate.monitor import KnnMonitor

    labeled = inputs["data"].dir / "labeled"
    if not (config.monitor_every and distributed.is_main() and labeled.is_dir()):
        return None
    samples, images = open_split(ctx, labeled, config.image)
    return KnnMonitor(samples, images, config.image, device, num_images=config.monitor_images, seed=config.seed)


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
