"""What a representation is worth: classifiers on the frozen features of a backbone."""

from __future__ import annotations

from pathlib import Path

from sslscale.artifacts import Checkpoint, Dataset, Report
from sslscale.dag import RunContext
from sslscale.errors import DataError
from sslscale.recipes.probe import ProbeConfig


def probe(ctx: RunContext, config: ProbeConfig, *, model: Checkpoint, data: Dataset) -> Report:
    """Fit the protocols to the labelled images and measure them on `config.split`.

    Writes report.json (for each protocol what `evaluate` writes) and the metrics PROTOCOL_accuracy.
    """
    import torch

    from sslscale.data.images import Images, bad_allowed
    from sslscale.data.samples import open_samples
    from sslscale.evaluate.classify import measure
    from sslscale.evaluate.knn import knn_classify
    from sslscale.evaluate.linear import linear_probe
    from sslscale.evaluate.outputs import network_outputs
    from sslscale.jsonio import write_json
    from sslscale.train.checkpoint import load_backbone
    from sslscale.train.engine import best_device

    if config.split not in data.num_samples:
        raise DataError(f"there is no split {config.split!r} to probe on; splits: {', '.join(data.num_samples)}")
    torch.set_num_threads(ctx.threads)
    device = best_device()
    backbone, info = load_backbone(model.dir)
    total = data.num_samples["labeled"] + data.num_samples[config.split]

    def features(folder: Path, done: int) -> tuple[torch.Tensor, torch.Tensor]:
        samples = open_samples(folder, tables=ctx.root / "cache" / "shards")
        images = Images(
            samples.shards,
            info.image.size,
            cache=ctx.root / "cache",
            cache_bytes=ctx.resources.cache_bytes,
            threads=ctx.threads,
            max_bad=bad_allowed(config.on_bad_sample, len(samples)),
            evaluation_crop=info.image.crop,
        )
        samples = samples.without(images.bad)
        found = network_outputs(
            backbone,
            info.image,
            images,
            *samples.places(),
            batch_size=config.batch_size,
            device=device,
            on_progress=lambda now: ctx.progress(done + now, total),
        )
        return found.to(device), torch.from_numpy(samples.labels).long().to(device)

    bank, labels = features(data.split("labeled"), 0)
    queries, truth = features(data.split(config.split), data.num_samples["labeled"])
    classes = len(data.classes)
    report: dict[str, object] = {"split": config.split, "features": bank.shape[1]}
    metrics: dict[str, float] = {}
    for protocol in config.protocols:
        strength = None
        if protocol == "knn":
            probs = knn_classify(bank, labels, queries, classes, k=config.k, temperature=config.temperature)
        else:
            probs, strength = linear_probe(bank, labels, queries, classes, seed=config.seed)
        result = measure(probs.cpu(), truth.cpu(), data.classes)
        report[protocol] = result if strength is None else {**result, "strength": strength}
        metrics[f"{protocol}_accuracy"] = result["accuracy"]
    write_json(ctx.path / "report.json", report)
    return Report(path=str(ctx.path), metrics=metrics)
