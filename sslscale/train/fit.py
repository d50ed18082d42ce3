"""The training loop: fetch, augment, forward, backward, step, after_step, log, save."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import torch

from sslscale import distributed
from sslscale.data.loader import Loader, Stream
from sslscale.data.rng import stream_seed
from sslscale.errors import DataError
from sslscale.methods.method import Guess, Moment
from sslscale.nn import collapse
from sslscale.storage import jsonio
from sslscale.train import checkpoint
from sslscale.train.checkpoint import BAD_BATCH
from sslscale.train.engine import Engine

log = logging.getLogger(__name__)
_RIGHT, _KNOWN = "rightly kept", "kept and known"
_SKIPPED, _ALL_SKIPPED = "skipped steps", "all skipped steps"
_SETTLED = 200  # steps: before them a network may give all images one embedding because it is new


def fit(
    engine: Engine,
    streams: Mapping[str, Stream],
    *,
    folder: Path | None = None,
    on_resume: Callable[[int], None] = lambda step: None,
    on_log: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None,
    on_progress: Callable[[int, Mapping[str, float]], None] = lambda step, shown: None,
    on_save: Callable[[], None] = lambda: None,
    monitor: Callable[[torch.nn.Module], float] | None = None,
    threads: int = 1,
) -> int:
    """Train from the newest state in `folder` (or from the start) to the end; returns the number of steps.

    Runs alike on every worker; the callbacks are called on the main one alone. Without a folder nothing is saved.
    `monitor` judges the method's network every config.monitor_every steps.
    Raises DataError if the loss is no longer finite, naming the step and the checkpoint to go back to.
    """
    config, num_steps = engine.config, engine.num_steps
    for name, stream in streams.items():
        low, high = distributed.agree(len(stream))
        if low != high:
            raise DataError(f"the workers see from {low} to {high} {name} images: is their data the same?")
    first = streams[next(iter(config.method.batch_sizes(config.batch_size)))]
    loader = Loader(streams, num_steps, threads=threads)
    step = 0
    if folder is not None and (found := engine.load(folder)) is not None:
        step, place = found
        loader.load_state_dict(place)
        log.warning("going on from step %d", step)
    low, high = distributed.agree(step)
    if low != high:
        raise DataError(f"the workers would resume from steps {low} to {high}: is {folder} shared by all of them?")
    if distributed.is_main():
        on_resume(step)
        if engine.device.type == "cpu" and config.precision != "fp32":
            _warn_of_emulation(config.precision)
    engine.method.train()
    images = sum(size for size in config.method.batch_sizes(config.batch_size).values())
    since, since_step, shown = time.monotonic(), step, 0.0
    monitored = step // config.monitor_every if config.monitor_every else 0
    sums: dict[str, torch.Tensor] = {}
    counted, warned, skipped_before = 0, False, engine.skipped.clone()
    hidden = streams["unlabeled"].samples.hidden if "unlabeled" in streams else None
    truth = None if hidden is None else torch.from_numpy(hidden).to(engine.device)
    for batch in loader:
        # dropout and stochastic depth follow from (seed, step, worker): a resumed run draws the same
        torch.manual_seed(stream_seed(config.seed, f"step {step} of worker {distributed.rank()}"))
        now = Moment(step, step / num_steps, step * config.batch_size / len(first))
        parts, lr = engine.train_step(batch, now)
        step += 1
        if truth is not None and engine.guess is not None:
            parts |= _rightly_kept(truth, batch["unlabeled"].index, engine.guess)
        for name, value in parts.items():
            sums[name] = sums[name] + value if name in sums else value.clone()
        counted += 1
        ending = step == num_steps
        if step % config.log_every == 0 or ending or step % config.save_every == 0:
            skipped = engine.skipped - skipped_before
            means = distributed.mean_scalars({**sums, _SKIPPED: skipped, _ALL_SKIPPED: engine.skipped})
            skipped_now, skipped_in_all = means.pop(_SKIPPED), means.pop(_ALL_SKIPPED)
            if skipped_in_all > config.max_skipped_steps or not config.max_skipped_steps:
                good = counted
            else:
                good = max(counted - round(skipped_now), 1)
            means = {name: value / good for name, value in means.items()}
            if _RIGHT in means:  # a share of shares would favour steps that keep few
                right, known = means.pop(_RIGHT), means.pop(_KNOWN)
                means |= {"pseudo_label_accuracy": right / known} if known else {}
            if skipped_in_all > config.max_skipped_steps:
                _stop(engine, means, streams, folder)
            _require_finite(means, step, folder)
            if step % config.log_every == 0 or ending:
                sums, counted, skipped_before = {}, 0, engine.skipped.clone()
                if skipped_in_all:
                    means["skipped_steps"] = skipped_in_all
                when = time.monotonic()
                if engine.embedding is not None:
                    means |= collapse.statistics(engine.embedding)
                    warned = warned or (step >= _SETTLED and _warns_of_collapse(means, step))
                rate = images * (step - since_step) / max(when - since, 1e-9)
                since_step = step
                network = None
                if config.monitor_every and (step // config.monitor_every > monitored or ending):
                    monitored = step // config.monitor_every
                    network = engine.network()  # on all workers: they may hold a part each
                if distributed.is_main():
                    watched = {}
                    if monitor is not None and network is not None:
                        watched["knn_accuracy"] = monitor(network)
                    on_log(step, {**means, **watched, "lr": lr, "images_per_s": rate})
                    since = time.monotonic()
                    if when - shown > 0.5 or ending:
                        on_progress(step, {"loss": means.get("loss", float("nan")), "rate": rate})
                        shown = when
        if folder is not None and (step % config.save_every == 0 or ending):
            engine.save(folder, step, loader.state_dict())
            if distributed.is_main():
                on_save()
    return step


def _rightly_kept(truth: torch.Tensor, index: torch.Tensor, guess: Guess) -> dict[str, torch.Tensor]:
    """How many unlabelled images were kept whose class is known, and of how many the guess was right."""
    label = truth[index]
    known = guess.kept * (label >= 0)
    return {_RIGHT: (known * (guess.label == label)).sum(), _KNOWN: known.sum()}


def _stop(engine: Engine, means: Mapping[str, float], streams: Mapping[str, Stream], folder: Path | None) -> NoReturn:
    """End a training whose gradients are not finite: which batch made them so is kept beside the state, with the
    weights, which it has not changed."""
    step = int(engine.first_skipped)
    wrong = [name for name, value in means.items() if not abs(value) < float("inf")] or ["gradients"]
    keys = {name: stream.keys(step) for name, stream in streams.items()}
    shown = "; ".join(f"{name} {', '.join(found[:3])}, ..." for name, found in keys.items())
    where = ""
    weights = engine.state_dict()["method"]  # on all workers: they may hold a part each
    if folder is not None and distributed.is_main():
        file = folder.parent / BAD_BATCH
        checkpoint.save_bad(folder.parent, weights)
        jsonio.write_json(file, {"step": step, "keys": keys})
        where = f", all of them in {file}"
    raise DataError(
        f"{' and '.join(wrong)} not finite at step {step} (its batch: {shown}{where}): the weights were not changed by "
        f"it; {checkpoint.last_good(folder)}; try a lower lr, or max_skipped_steps; "
        "`sslscale replay` runs that batch alone"
    )


def _require_finite(means: Mapping[str, float], step: int, folder: Path | None) -> None:
    wrong = [name for name, value in means.items() if not abs(value) < float("inf")]
    if wrong:
        values = ", ".join(f"{name} {value:g}" for name, value in means.items())
        raise DataError(
            f"{' and '.join(wrong)} not finite at step {step} ({values}); {checkpoint.last_good(folder)}; try a "
            "lower lr"
        )


def _warn_of_emulation(precision: str) -> None:
    """Say that the processor does not know the numbers: its libraries compute them one by one."""
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        log.warning(
            "precision: %s is emulated by this processor (AVX2) and takes many times as long as fp32, of a ViT up to "
            "50 times; set precision: fp32",
            precision,
        )


def _warns_of_collapse(means: Mapping[str, float], step: int) -> bool:
    """Say once, on the main worker, that all images have become one."""
    found = collapse.has_collapsed(means)
    if found and distributed.is_main():
        log.warning(
            "step %d: the representation collapses: embedding_std %.3f (1: spread evenly, 0: one point), rank "
            "%.1f; lower the learning rate, or weigh the method's terms against it",
            step,
            means["embedding_std"],
            means["effective_rank"],
        )
    return found
