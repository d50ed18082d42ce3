"""Adapt an image and a text tower to unlabelled images of given classes."""

from __future__ import annotations

from dataclasses import dataclass, field

from sslscale.errors import DataError
from sslscale.graph.artifacts import Checkpoint, Dataset
from sslscale.graph.context import RunContext
from sslscale.settings.reclip import ReclipConfig
from sslscale.settings.text import ZeroShotConfig
from sslscale.storage.jsonio import write_json


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """How to adapt, and the classes by name."""

    reclip: ReclipConfig
    zero_shot: ZeroShotConfig
    version: int = field(default=1, init=False)


def reclip(ctx: RunContext, config: Adaptation, *, model: Checkpoint, data: Dataset) -> Checkpoint:
    """Write a classifier, the mean of both branches, and epochs.json: the share of images on which they agree, and how
    often each branch is right where the truth was kept beside the unlabelled images (which no branch sees)."""
    import numpy as np
    import torch

    from sslscale.data.reading import open_for_evaluation
    from sslscale.data.samples import open_unlabeled
    from sslscale.evaluate.zero_shot import sentences
    from sslscale.nn.classifier import num_parameters
    from sslscale.nn.open_clip_towers import tokenizer
    from sslscale.settings.model import read_info
    from sslscale.train import checkpoint
    from sslscale.train.engine import best_device
    from sslscale.train.reclip import Reclip

    own = config.reclip
    torch.set_num_threads(ctx.threads)
    torch.manual_seed(own.seed)
    splits = tuple(split for split in own.splits if split in data.num_samples)
    classes = config.zero_shot.classes or data.classes
    if not splits or not classes:
        what = f"has none of the splits {', '.join(own.splits)}" if not splits else "has no classes: name them"
        raise DataError(f"{ctx.name}: the data {what}")
    info, towers = read_info(model.dir), checkpoint.load_towers(model.dir)
    samples = open_unlabeled(data.dir, splits, local=ctx.local)
    images = open_for_evaluation(ctx, samples.shards, info.image)
    texts, tokens = sentences(config.zero_shot, classes), tokenizer(towers.config.context)
    run = Reclip(
        towers,
        own,
        info.image,
        images,
        samples.places(),
        tokens([sentence[0] for sentence in texts]),
        tokens([text for sentence in texts for text in sentence]),
        best_device(ctx.resources),
    )
    epochs, rows = own.num_epochs(len(samples)), []
    row: dict[str, float] = {}
    for epoch in range(epochs + 1):
        found = run.label()
        every = np.stack(list(found.values()))
        row = {"agreement": float((every == every[0]).all(0).mean())}
        if samples.hidden is not None:
            known = samples.hidden >= 0
            row |= {f"{name}_accuracy": float((label == samples.hidden)[known].mean()) for name, label in found.items()}
        rows.append({"epoch": epoch, **row})
        ctx.log(epoch, row)
        if epoch < epochs:
            ctx.progress(epoch, epochs, **row)
            run.learn(epoch)
    write_json(ctx.path / "epochs.json", rows)
    network = run.classifier()
    checkpoint.save_model(ctx.path, network, checkpoint.describe_model(network, info.model, info.image, classes))
    return Checkpoint(
        path=str(ctx.path), num_parameters=num_parameters(network), step=epochs, metrics={"agreement": row["agreement"]}
    )
