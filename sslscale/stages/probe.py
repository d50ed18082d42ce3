"""What a representation is worth: classifiers, retrieval and clustering on frozen features."""

from __future__ import annotations

from typing import Any

from sslscale.errors import DataError
from sslscale.graph.artifacts import Dataset, Embeddings, Report
from sslscale.graph.context import RunContext
from sslscale.settings.probe import ProbeConfig

_QUERIES, _SHOWN = 6, 8  # rows of the gallery, and nearest images in each


def probe(ctx: RunContext, config: ProbeConfig, *, features: Embeddings, data: Dataset) -> Report:
    """Fit the protocols to the labelled images' features and measure them on `config.split`.

    Writes report.json (for each protocol what it found) and, for retrieval, gallery.png.
    """
    import torch

    from sslscale.data.features import Features
    from sslscale.data.samples import open_samples
    from sslscale.evaluate.classify import measure
    from sslscale.evaluate.clustering import cluster_agreement
    from sslscale.evaluate.knn import knn_classify
    from sslscale.evaluate.linear import linear_probe
    from sslscale.evaluate.linear_sgd import sgd_probe
    from sslscale.evaluate.retrieval import retrieve
    from sslscale.storage.jsonio import write_json
    from sslscale.train.engine import best_device

    for split in ("labeled", config.split):
        if split not in features.num_samples:
            raise DataError(f"{ctx.name}: there are no features of the split {split!r}; add it to extract.splits")
    torch.set_num_threads(ctx.threads)
    device = best_device(ctx.resources)

    def read(split: str) -> tuple[Any, torch.Tensor, torch.Tensor]:
        rows = Features(features.dir, (split,)).read()
        samples = open_samples(data.split(split), local=ctx.local)
        rows = torch.from_numpy(rows).to(device)
        return samples, rows, torch.from_numpy(samples.labels).long().to(device)

    _, bank, labels = read("labeled")
    samples, queries, truth = read(config.split)
    classes = len(data.classes)
    report: dict[str, Any] = {"split": config.split, "features": bank.shape[1]}
    metrics: dict[str, float] = {}
    for number, protocol in enumerate(config.protocols):
        ctx.progress(number, len(config.protocols))
        if protocol == "retrieval":
            found, place = retrieve(queries, truth)
            report[protocol] = found
            metrics |= {name: value for name, value in found.items() if name.startswith("recall")}
            _gallery(ctx, samples, data, place.cpu().numpy(), config.seed)
            continue
        if protocol == "clustering":
            report[protocol] = cluster_agreement(queries, truth, classes, seed=config.seed)
            metrics |= report[protocol]
            continue
        more: dict[str, Any] = {}
        if protocol == "knn":
            probs = knn_classify(bank, labels, queries, classes, k=config.k, temperature=config.temperature)
        elif protocol == "linear":
            probs, more["strength"] = linear_probe(bank, labels, queries, classes, seed=config.seed)
        else:
            probs, more["lr"] = sgd_probe(bank, labels, queries, classes, epochs=config.epochs, seed=config.seed)
        report[protocol] = {**measure(probs.cpu(), truth.cpu(), data.classes), **more}
        metrics[f"{protocol}_accuracy"] = report[protocol]["accuracy"]
    write_json(ctx.path / "report.json", report)
    return Report(path=str(ctx.path), metrics=metrics)


def _gallery(ctx: RunContext, samples: Any, data: Dataset, place: Any, seed: int) -> None:
    """A few images, each with the ones that are nearest to it."""
    import numpy as np

    from sslscale.data.decode import shown
    from sslscale.report.figures import gallery

    rng = np.random.default_rng([seed, 0x6A11])
    queries = np.sort(rng.choice(len(samples), min(_QUERIES, len(samples)), replace=False))
    chosen = np.concatenate([queries[:, None], place[queries, :_SHOWN]], 1)
    shard, row = samples.places(chosen.ravel())
    images = [
        shown(samples.shards[int(s)].encoded(int(r)), samples.index.pixels).permute(1, 2, 0).numpy()
        for s, r in zip(shard, row, strict=True)
    ]
    names = [data.classes[label] for label in samples.labels[chosen.ravel()]]
    gallery(ctx.path, images, names, chosen.shape[1])
