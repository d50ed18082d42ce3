"""Measure a recogniser on the lines of a split."""

from __future__ import annotations

from typing import Any

from sslscale.errors import DataError
from sslscale.graph.artifacts import Checkpoint, Dataset, Report
from sslscale.graph.context import RunContext
from sslscale.settings.lines import ReadConfig
from sslscale.storage.jsonio import write_json


def read_lines(ctx: RunContext, config: ReadConfig, *, model: Checkpoint, data: Dataset) -> Report:
    """Write report.json (CER, WER, exact lines, with intervals), readings.csv (key, transcript, reading, distance,
    confidence) and worst.png. Lines without a transcript are counted and left out."""
    import csv

    import numpy as np
    import torch

    from sslscale.data.alphabet import decode, read_transcripts
    from sslscale.data.reading import open_for_evaluation
    from sslscale.data.samples import open_images
    from sslscale.evaluate.outputs import network_outputs
    from sslscale.evaluate.reading import measure_reading
    from sslscale.train.checkpoint import load_recognizer
    from sslscale.train.engine import best_device

    if config.split not in data.num_samples:
        raise DataError(f"there is no split {config.split!r} to read; splits: {', '.join(data.num_samples)}")
    torch.set_num_threads(ctx.threads)
    network, info = load_recognizer(model.dir)
    samples = open_images(data.dir, (config.split,), local=ctx.local)
    true = [text for shard in samples.shards for text in read_transcripts(shard, config.member)]
    kept = np.array([bool(text) for text in true])
    if not kept.any():
        raise DataError(f"{data.split(config.split)}: no line has a transcript in KEY.{config.member}")
    samples = samples.keep(kept)
    true = [text for text in true if text]
    images = open_for_evaluation(ctx, samples.shards, info.image)
    said: list[str] = []
    sure: list[float] = []
    places = samples.places()
    # part by part: logits of a column for each character are large
    for start in range(0, len(samples), 32 * config.batch_size):
        part = slice(start, start + 32 * config.batch_size)
        logits = network_outputs(
            network,
            info.image,
            images,
            *(x[part] for x in places),
            batch_size=config.batch_size,
            device=best_device(ctx.resources),
            on_progress=lambda done, start=start: ctx.progress(start + done, len(samples)),
        )
        tokens, _, confidence = network.head.text(logits)
        said += [decode(row, info.classes) for row in tokens.tolist()]
        sure += confidence.tolist()
    result: dict[str, Any] = measure_reading(
        said, true, ignore_case=config.ignore_case, resamples=config.resamples, seed=config.seed
    )
    distances = result.pop("distances")
    unknown = sorted(set("".join(true)) - set(info.classes))
    result |= {"split": config.split, "without_transcript": int((~kept).sum()), "unknown_characters": unknown}
    write_json(ctx.path / "report.json", result)
    keys = [samples.key(number) for number in range(len(samples))]
    with open(ctx.path / "readings.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "transcript", "reading", "distance", "confidence"])
        writer.writerows(zip(keys, true, said, distances, [f"{x:.4f}" for x in sure], strict=True))
    _draw(ctx, config, samples, images, true, said, np.array(distances))
    return Report(path=str(ctx.path), metrics={name: result[name] for name in ("cer", "wer", "exact", "lines")})


def _draw(ctx: RunContext, config: ReadConfig, samples: Any, images: Any, true: Any, said: Any, distances: Any) -> None:
    """The lines with the most errors."""
    import numpy as np

    from sslscale.report.lines import line_pictures

    worst = np.argsort(-distances, kind="stable")[: config.shown]
    pictures = images.fetch(*samples.places(worst)).permute(0, 2, 3, 1).numpy()
    line_pictures(ctx.path / "worst.png", pictures, [true[n] for n in worst], [said[n] for n in worst])
