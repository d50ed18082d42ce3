"""Judge a backbone by segmentation with its nearest patches: nothing is trained."""

from __future__ import annotations

import dataclasses
from typing import Any

from sslscale.errors import DataError
from sslscale.graph.artifacts import Checkpoint, Dataset, Report
from sslscale.graph.context import RunContext
from sslscale.settings.transfer import PatchKnnConfig
from sslscale.storage.jsonio import write_json


def patch_knn(ctx: RunContext, config: PatchKnnConfig, *, model: Checkpoint, data: Dataset) -> Report:
    """Write report.json: mIoU with an interval, by class, and the k that was chosen."""
    import numpy as np
    import torch

    from sslscale.data.joined import open_scenes
    from sslscale.evaluate.detection import overlap, segmentation_result
    from sslscale.evaluate.patch_knn import bank_of, count_by_nearest
    from sslscale.nn.pyramid import StageMaps
    from sslscale.settings.model import read_info
    from sslscale.train.checkpoint import load_backbone
    from sslscale.train.engine import best_device

    for split in ("labeled", config.split):
        if split not in data.num_samples:
            raise DataError(f"{ctx.name}: there is no split {split!r}; splits: {', '.join(data.num_samples)}")
    torch.set_num_threads(ctx.threads)
    info = read_info(model.dir)
    image = dataclasses.replace(info.image, size=config.size or info.image.size, short_side=None)
    network = StageMaps(load_backbone(model.dir)[0], image.size)
    train = open_scenes(data.dir, ("labeled",), local=ctx.local)
    test = open_scenes(data.dir, (config.split,), local=ctx.local)
    held = np.random.default_rng([config.seed, 0xBA7C]).permutation(len(train)) < max(len(train) // 10, 1)
    options: dict[str, Any] = {"batch_size": config.batch_size, "threads": ctx.threads}
    options["device"] = best_device(ctx.resources)
    own = {"most": config.places, "seed": config.seed, **options}
    ks = sorted(set(config.k))
    if len(ks) > 1:
        bank, labels = bank_of(network, train.keep(~held), image, **own)
        chosen = count_by_nearest(network, bank, labels, train.keep(held), image, ks, **options)
        best = max(ks, key=lambda k: overlap(chosen[k].sum(0)).miou)
    else:
        (best,) = ks
    bank, labels = bank_of(network, train, image, **own)
    tables = count_by_nearest(
        network,
        bank,
        labels,
        test,
        image,
        [best],
        on_progress=lambda done: ctx.progress(done, len(test)),
        **options,
    )[best]
    result = {
        "split": config.split,
        "images": len(test),
        "places": len(labels),
        "grid": image.size // network.strides[-1],
        "k": best,
        **segmentation_result(tables, test.index.classes, config.groups),
    }
    write_json(ctx.path / "report.json", result)
    return Report(path=str(ctx.path), metrics={name: result[name] for name in ("miou", "pixel_accuracy")})
