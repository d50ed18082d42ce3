"""What a classifier stands: corruptions, perturbations, attacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sslscale.errors import DataError
from sslscale.graph.artifacts import Checkpoint, Dataset, Report
from sslscale.graph.context import RunContext
from sslscale.settings.pixels import RGB
from sslscale.settings.robustness import RobustnessConfig


def robustness(
    ctx: RunContext,
    config: RobustnessConfig,
    *,
    model: Checkpoint,
    data: Dataset,
    baseline: Report | None = None,
) -> Report:
    """Write report.json and robustness.png.

    mCE and mFR are relative to the `baseline`, another report of this kind; without one mCE is relative to AlexNet for
    images of 112 pixels and more (it means something on ImageNet alone). The plain means are always there.
    """
    import numpy as np
    import torch

    from sslscale.data.augment import normalize
    from sslscale.data.reading import open_split
    from sslscale.evaluate import corruptions
    from sslscale.report.figures import robustness_figure
    from sslscale.storage.jsonio import read_json, write_json
    from sslscale.train.checkpoint import load_model
    from sslscale.train.engine import best_device

    if config.split not in data.num_samples:
        raise DataError(f"there is no split {config.split!r} to measure on; splits: {', '.join(data.num_samples)}")
    torch.set_num_threads(ctx.threads)
    device = best_device(ctx.resources)
    network, info = load_model(model.dir)
    if info.image.pixels != RGB:
        raise DataError(f"{ctx.name}: corruptions are those of 8-bit RGB images, not of {info.image.pixels}")
    network = network.to(device).requires_grad_(False)
    samples, images = open_split(ctx, data.split(config.split), info.image)
    if samples.index.classes != info.classes:
        raise DataError(f"{model.path} knows other classes than {data.split(config.split)}")
    if config.max_images and config.max_images < len(samples):
        chosen = np.zeros(len(samples), bool)
        chosen[np.random.default_rng([config.seed, 0x20B]).permutation(len(samples))[: config.max_images]] = True
        samples = samples.keep(chosen)
    shard, row = samples.places()
    count = len(samples)
    truth = torch.from_numpy(samples.labels).long()
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (info.image.mean, info.image.std))

    def batches() -> Iterator[tuple[int, Any, Any]]:
        for start in range(0, count, config.batch_size):
            part = slice(start, start + config.batch_size)
            yield start, images.fetch(shard[part], row[part]).to(device), truth[part].to(device)

    def logits(whole: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return network(normalize(whole, info.image.mean, info.image.std)).float()

    def differentiable(x: torch.Tensor) -> torch.Tensor:
        return network((x - mean) / std).float()

    def error(change: Callable[[int, Any, Any], Any]) -> float:
        wrong = sum(int((logits(change(n, x, y)).argmax(1) != y).sum()) for n, x, y in batches())
        return wrong / count

    def generator(*key: int) -> torch.Generator:
        return torch.Generator().manual_seed(int(np.random.default_rng([config.seed, *key]).integers(1 << 62)))

    names = {"common": corruptions.COMMON, "all": corruptions.COMMON + corruptions.EXTRA, "none": ()}[
        config.corruptions
    ]
    total = len(names) + 10 * config.perturbations + len(config.attacks)
    done = 0
    clean = error(lambda n, x, y: x)
    report: dict[str, Any] = {"split": config.split, "samples": count, "clean_error": clean}
    metrics: dict[str, float] = {"clean_accuracy": 1 - clean}
    frost = _photographs(config.frost_images)
    errors: dict[str, list[float]] = {}
    for number, name in enumerate(names):
        errors[name] = [
            error(
                lambda n, x, y, s=severity, name=name, number=number: corruptions.corrupt(
                    x, name, s, generator(1, number, s, n), frost=frost
                )
            )
            for severity in range(1, 6)
        ]
        done += 1
        ctx.progress(done, total)
    if errors:
        common = [e for name, e in errors.items() if name in corruptions.COMMON]
        report["corruptions"], report["frost"] = errors, "photographs" if frost else "a texture that stands in for them"
        metrics["mean_corruption_error"] = float(np.mean(common))
    if config.perturbations:
        report["perturbations"] = _perturbations(batches, logits, generator, lambda n: ctx.progress(done + n, total))
        done += 10
        metrics["mean_flip_probability"] = float(np.mean([r["flip"] for r in report["perturbations"].values()]))
        metrics["mean_top5_distance"] = float(np.mean([r["top5"] for r in report["perturbations"].values()]))
    for attack in config.attacks:
        found = {
            str(e): 1 - error(lambda n, x, y, a=attack, e=e: _attack(a, differentiable, x, y, e, config, generator, n))
            for e in config.epsilons
        }
        report.setdefault("attacks", {})[attack] = found
        done += 1
        ctx.progress(done, total)
    other = read_json(baseline.dir / "report.json") if baseline is not None else None
    metrics |= _relative(report, other, info.image.size)
    write_json(ctx.path / "report.json", {**report, "metrics": metrics})
    robustness_figure(ctx.path, report)
    return Report(path=str(ctx.path), metrics=metrics)


def _perturbations(batches: Any, logits: Any, generator: Any, progress: Callable[[int], None]) -> dict[str, Any]:
    from sslscale.evaluate import perturbations

    found = {}
    for number, name in enumerate(perturbations.NAMES):
        flips = perturbations.Flips(perturbations.is_noise(name))
        for n, x, _ in batches():
            flips.add(logits(frame) for frame in perturbations.sequence(x, name, generator(2, number, n)))
        found[name] = {"flip": flips.probability, "top5": flips.top5}
        progress(number + 1)
    return found


def _attack(
    name: str, logits: Any, x: Any, y: Any, epsilon: float, config: RobustnessConfig, generator: Any, batch: int
) -> Any:
    """Attacked images, rounded back to uint8."""
    import torch

    from sslscale.evaluate.adversarial import fgsm, pgd

    start, distance = x.float() / 255, epsilon / 255
    if name == "fgsm":
        found = fgsm(logits, start, y, distance)
    else:
        found = pgd(logits, start, y, distance, steps=config.pgd_steps, generator=generator(3, batch))
    return (found * 255).round().to(torch.uint8)


def _relative(report: dict[str, Any], other: dict[str, Any] | None, size: int) -> dict[str, float]:
    """mCE and mFR against a baseline, where there is one."""
    import numpy as np

    from sslscale.evaluate import corruptions

    found: dict[str, float] = {}
    if errors := report.get("corruptions"):
        table = None
        if other is not None and "corruptions" in other:
            table = {name: float(np.mean(e)) for name, e in other["corruptions"].items()}
        elif other is None and size >= corruptions.SMALL:
            table = corruptions.ALEXNET_ERRORS
        if table is not None and all(table.values()):
            found["mce"] = corruptions.mean_corruption_error(errors, table)
    if other is not None and "perturbations" in other and "perturbations" in report:
        base = {name: row["flip"] for name, row in other["perturbations"].items()}
        if all(base.values()):
            found["mfr"] = float(np.mean([row["flip"] / base[n] for n, row in report["perturbations"].items()]))
    return found


def _photographs(folder: str | None) -> list[Any]:
    from sslscale.data.decode import decode
    from sslscale.data.sources import SUFFIXES

    if folder is None:
        return []
    files = sorted(file for file in Path(folder).glob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{folder}: has no images of frost")
    return [decode(file.read_bytes()) for file in files]
