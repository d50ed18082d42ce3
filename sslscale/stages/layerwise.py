"""A linear classifier on every layer of a network: how deep the useful features lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sslscale.errors import DataError
from sslscale.graph.artifacts import Checkpoint, Dataset, Report
from sslscale.graph.context import RunContext
from sslscale.settings.probe import LayerwiseConfig


def layerwise(ctx: RunContext, config: LayerwiseConfig, *, model: Checkpoint, data: Dataset) -> Report:
    """Fit a logistic regression to each layer's pooled features; write report.json and layers.png.

    Learns from `max_images` labelled images at most, drawn by the seed, so that memory is bounded.
    """
    import numpy as np
    import torch

    from sslscale.data.reading import open_split
    from sslscale.evaluate.classify import measure
    from sslscale.evaluate.linear import linear_probe
    from sslscale.evaluate.outputs import network_outputs
    from sslscale.nn.layers import LayerFeatures
    from sslscale.report.figures import layer_curve
    from sslscale.storage.jsonio import write_json
    from sslscale.train.checkpoint import load_backbone
    from sslscale.train.engine import best_device

    if config.split not in data.num_samples:
        raise DataError(f"there is no split {config.split!r} to probe on; splits: {', '.join(data.num_samples)}")
    torch.set_num_threads(ctx.threads)
    device = best_device(ctx.resources)
    backbone, info = load_backbone(model.dir)
    network = LayerFeatures(backbone, max_features=config.max_features)

    def features(folder: Path, most: int | None) -> tuple[Any, torch.Tensor]:
        samples, images = open_split(ctx, folder, info.image)
        if most is not None and most < len(samples):
            chosen = np.zeros(len(samples), bool)
            chosen[np.random.default_rng([config.seed, 0x1A7E]).permutation(len(samples))[:most]] = True
            samples = samples.keep(chosen)
        found = network_outputs(
            network, info.image, images, *samples.places(), batch_size=config.batch_size, device=device
        )
        return found, torch.from_numpy(samples.labels).long().to(device)

    bank, labels = features(data.split("labeled"), config.max_images)
    queries, truth = features(data.split(config.split), None)
    names, sizes = [*network.names, "features"], network.sizes
    layers: list[dict[str, Any]] = []
    start = 0
    for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
        ctx.progress(number, len(names))
        part = slice(start, start + size)
        start += size
        probs, strength = linear_probe(
            bank[:, part].to(device), labels, queries[:, part].to(device), len(data.classes), seed=config.seed
        )
        result = measure(probs.cpu(), truth.cpu(), data.classes)
        short = {key: result[key] for key in ("accuracy", "accuracy_interval", "top5_accuracy", "ece")}
        layers.append({"layer": name, "features": size, "strength": strength, **short})
    write_json(ctx.path / "report.json", {"split": config.split, "images": len(bank), "layers": layers})
    accuracies = [layer["accuracy"] for layer in layers]
    layer_curve(ctx.path, names, accuracies, [layer["accuracy_interval"] for layer in layers])
    best = max(layers, key=lambda layer: layer["accuracy"])
    metrics = {"best_layer_accuracy": best["accuracy"], "best_layer": float(layers.index(best))}
    return Report(path=str(ctx.path), metrics={"last_layer_accuracy": accuracies[-1], **metrics})
