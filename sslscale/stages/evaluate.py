"""Measure a checkpoint on a labelled split."""

from __future__ import annotations

from sslscale.errors import DataError
from sslscale.graph.artifacts import Checkpoint, Dataset, Report
from sslscale.graph.context import RunContext
from sslscale.settings.pseudo import EvaluateConfig
from sslscale.storage.jsonio import write_json


def evaluate(ctx: RunContext, config: EvaluateConfig, *, model: Checkpoint, data: Dataset) -> Report:
    """Write report.json (accuracy, top-5, calibration, per class, confusion matrix), confusion.png and predictions.npy.

    The latter has the label, the most probable class and its probability of every image, in the order of the shards.
    """
    import numpy as np
    import torch

    from sslscale.data.features import write_array
    from sslscale.data.reading import open_split
    from sslscale.evaluate.classify import measure
    from sslscale.evaluate.outputs import network_outputs
    from sslscale.report.figures import confusion_figure
    from sslscale.train.checkpoint import load_model
    from sslscale.train.engine import best_device

    if config.split not in data.num_samples:
        raise DataError(f"there is no split {config.split!r} to evaluate on; splits: {', '.join(data.num_samples)}")
    torch.set_num_threads(ctx.threads)
    network, info = load_model(model.dir)
    samples, images = open_split(ctx, data.split(config.split), info.image)
    classes = samples.index.classes
    names = {**{name: name for name in classes}, **dict(config.class_map)}
    unknown = [name for name in classes if names[name] not in info.classes]
    if unknown:
        raise DataError(
            f"{model.path} does not know {len(unknown)} of the {len(classes)} classes of {data.split(config.split)}: "
            f"{', '.join(unknown[:3])}{', ...' if len(unknown) > 3 else ''}; name them by a class map"
        )
    logits = network_outputs(
        network,
        info.image,
        images,
        *samples.places(),
        batch_size=config.batch_size,
        device=best_device(ctx.resources),
        precision=config.precision,
        on_progress=lambda done: ctx.progress(done, len(samples)),
    )
    if classes != info.classes:
        logits = logits[:, [info.classes.index(names[name]) for name in classes]]
    probs = logits.softmax(-1)
    confidence, predicted = probs.max(1)
    columns = [("label", "<i4"), ("predicted", "<i4"), ("confidence", "<f4")]
    rows = np.zeros(len(samples), columns)
    rows["label"], rows["predicted"], rows["confidence"] = samples.labels, predicted.numpy(), confidence.numpy()
    write_array(ctx.path / "predictions.npy", rows)
    result = measure(probs, torch.from_numpy(samples.labels).long(), classes)
    write_json(ctx.path / "report.json", {"split": config.split, **result})
    confusion_figure(ctx.path, result["confusion"], classes)
    named = {f"{config.split}_{name}": result[name] for name in ("accuracy", "top5_accuracy", "ece", "samples")}
    return Report(path=str(ctx.path), metrics=named)
