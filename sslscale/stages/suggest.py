"""Which unlabelled images to label next, by a network's view of them."""

from __future__ import annotations

from typing import Any

from sslscale.errors import ConfigError, DataError
from sslscale.graph.artifacts import Checkpoint, Dataset, Suggestions
from sslscale.graph.context import RunContext
from sslscale.settings.suggest import NEED_CLASSES, SuggestConfig

_SHOWN = 200  # images on the page


def suggest(ctx: RunContext, config: SuggestConfig, *, model: Checkpoint, data: Dataset) -> Suggestions:
    """Write suggestions.csv (key, an empty label, the network's guess, a score), numbers.npy (their places in the
    unlabelled split, int64) and suggestions.html."""
    import csv

    import numpy as np
    import torch

    from sslscale.data.features import write_array
    from sslscale.data.reading import open_for_evaluation
    from sslscale.data.samples import open_images
    from sslscale.evaluate import acquisition
    from sslscale.settings.model import read_info
    from sslscale.train import checkpoint
    from sslscale.train.engine import best_device

    if "unlabeled" not in data.num_samples:
        raise DataError(f"{ctx.name}: the data has no unlabelled images to choose from")
    torch.set_num_threads(ctx.threads)
    info = read_info(model.dir)
    if config.by in NEED_CLASSES and not info.head:
        raise ConfigError(f"{ctx.name}: {config.by} needs a classifier, and {model.path} is a backbone alone")
    device = best_device(ctx.resources)
    network: Any = checkpoint.load_model(model.dir)[0] if info.head else checkpoint.load_backbone(model.dir)[0]
    samples = open_images(data.dir, ("unlabeled",), local=ctx.local)
    number = min(config.number, len(samples))
    rng = np.random.default_rng([config.seed, 0x5066])
    among = np.arange(len(samples))
    if config.by in ("coreset", "badge", "typiclust") and len(samples) > config.pool:
        among = np.sort(rng.choice(len(samples), config.pool, replace=False))

    def seen(of: Any, numbers: Any, done: Any) -> Any:
        """Features and, of a classifier, logits of these samples."""
        images = open_for_evaluation(ctx, of.shards, info.image)
        shard, row = of.places(numbers)
        return network_views(network, info, images, shard, row, config.batch_size, device, done)

    logits = None
    if config.by == "random":
        chosen, score = rng.choice(len(samples), number, replace=False), np.zeros(len(samples), np.float32)
    else:
        features, logits = seen(samples, among, lambda done: ctx.progress(done, len(among)))
        if config.by in ("coreset", "badge", "typiclust"):
            labeled = torch.zeros(0, features.shape[1])
            if "labeled" in data.num_samples and config.by != "badge":
                known = open_images(data.dir, ("labeled",), local=ctx.local)
                some = rng.choice(len(known), min(len(known), config.pool), replace=False)
                labeled, _ = seen(known, np.sort(some), lambda done: None)
            rows = acquisition.choose(
                config.by, number, features=features, labeled=labeled, logits=logits, seed=config.seed
            )
            chosen, score = among[rows.numpy()], np.zeros(len(samples), np.float32)
        else:
            assert logits is not None
            score = acquisition.uncertainty(logits, config.by).numpy()
            chosen = np.argsort(-score, kind="stable")[:number]  # ties by the order of the shards
    write_array(ctx.path / "numbers.npy", np.asarray(chosen, np.int64))
    place = {int(n): row for row, n in enumerate(among)}
    guesses = [
        info.classes[int(logits[place[int(n)]].argmax())] if logits is not None and int(n) in place else ""
        for n in chosen
    ]
    keys = [samples.key(int(n)) for n in chosen]
    with open(ctx.path / "suggestions.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "label", "guess", "score"])
        writer.writerows((k, "", g, f"{score[int(n)]:.6g}") for k, g, n in zip(keys, guesses, chosen, strict=True))
    _page(ctx, config, data, keys, guesses, chosen)
    return Suggestions(path=str(ctx.path), by=config.by, metrics={"images": number, "of": len(samples)})


def network_views(
    network: Any, info: Any, images: Any, shard: Any, row: Any, batch_size: int, device: Any, on_progress: Any
) -> tuple[Any, Any]:
    """Features and, of a classifier, logits (else None) of images, in one pass."""
    import torch
    from torch import nn

    from sslscale.evaluate.outputs import network_outputs

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not info.head:
                return self.network(x)
            features = self.network.backbone(x)
            return torch.cat([features, self.network.head(features)], 1)

    found = network_outputs(
        Both(), info.image, images, shard, row, batch_size=batch_size, device=device, on_progress=on_progress
    )
    if not info.head:
        return found, None
    width = network.num_features
    return found[:, :width], found[:, width:]


def _page(ctx: RunContext, config: SuggestConfig, data: Dataset, keys: Any, guesses: Any, chosen: Any) -> None:
    """The images to label, as a page."""
    from sslscale.report import page
    from sslscale.report.thumbnails import Thumbnails

    pictures = Thumbnails(data.split("unlabeled"), ctx.local)
    shown = list(zip(keys, guesses, chosen, strict=True))[:_SHOWN]
    tiles = [page.Tile(pictures.uri(int(n)), guess or key.rpartition("/")[2], key) for key, guess, n in shown]
    parts = [
        page.text(f"{len(keys):,} images, by {config.by}. Write a class into the column `label` of suggestions.csv."),
        page.gallery("In the order of their worth", [("", tiles)]),
    ]
    (ctx.path / "suggestions.html").write_text(page.page("Images to label", {"Images": parts}), "utf-8")
