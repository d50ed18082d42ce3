"""The training loop: fetch, augment, forward, backward, step, after_step, log, save."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

import torch

from sslscale import distributed
from sslscale.data.loader import Loader
from sslscale.data.rng import stream_seed
from sslscale.data.stream import Stream
from sslscale.errors import DataError, Stopped
from sslscale.methods.method import StepInfo
from sslscale.nn import collapse
from sslscale.train import finite
from sslscale.train.engine import Engine
from sslscale.train.meter import Meter
from sslscale.train.recorder import Recorder
from sslscale.train.stopping import Stopping
from sslscale.train.watchdog import Watchdog

log = logging.getLogger(__name__)
_SETTLED = 200  # steps: before them a network may give all images one embedding because it is new
_PROGRESS_S = 0.5
_FORGOTTEN = 0.02  # kNN accuracy lost since the start of a training from given weights

Monitor = Callable[[torch.nn.Module], float]


def fit(
    engine: Engine,
    streams: Mapping[str, Stream],
    *,
    recorder: Recorder | None = None,
    monitor: Monitor | None = None,
    threads: int = 1,
    hung_after_s: float | None = None,
) -> int:
    """Train from the newest state in the recorder's folder, or from the start, to the end; returns the number of steps.

    Runs alike on every worker; the recorder is called on the main one alone. Without a folder nothing is saved.
    `monitor` gives the kNN accuracy of the method's network, every config.monitor_every steps. If no step ends for
    `hung_after_s` seconds, the stacks of all threads are written to stderr.
    Raises DataError if the loss is no longer finite, naming the step and the checkpoint to go back to; Stopped, after
    the state is saved, if the recorder is asked to stop.
    """
    config, num_steps = engine.config, engine.num_steps
    recorder = recorder or Recorder()
    loader = Loader(streams, num_steps, threads=threads)
    step = _start(engine, streams, loader, recorder)
    num_samples = len(streams[next(iter(config.batch_sizes))])
    meter = Meter(engine, streams)
    reporter = _Reporter(engine, recorder, monitor, step)
    engine.method.train()
    if step == 0:
        reporter.begin()
    with Stopping(recorder.asked_to_stop) as stopping, Watchdog(hung_after_s) as watchdog:
        for batch in loader:
            if step == 0 and distributed.is_main():
                recorder.shown(batch)
            # dropout and stochastic depth follow from (seed, step, worker): a resumed run draws the same
            torch.manual_seed(stream_seed(config.seed, f"step {step} of worker {distributed.rank()}"))
            info = StepInfo(step, step / num_steps, step * config.batch_size / num_samples)
            parts, lr = engine.train_step(batch, info)
            step += 1
            watchdog.step_ended()
            reporter.beat(step)
            meter.add(parts, batch)
            ending = step == num_steps
            logs = step % config.log_every == 0 or ending
            if logs or step % config.save_every == 0:
                means = meter.means()
                if meter.skipped_steps > config.max_skipped_steps:
                    finite.stop(engine, means, streams, recorder.folder)
                finite.require_finite(means, step, recorder.folder)
                if logs:
                    meter.reset()
                    if meter.skipped_steps:
                        means["skipped_steps"] = meter.skipped_steps
                    reporter.report(step, means, lr)
            stops = stopping.now() and not ending
            if recorder.folder is not None and (step % config.save_every == 0 or ending or stops):
                engine.save(recorder.folder, step, loader.state_dict())
                if distributed.is_main():
                    recorder.saved()
            if stops:
                raise Stopped(f"stopped after step {step:,} of {num_steps:,}; its state is saved")
    return step


def _start(engine: Engine, streams: Mapping[str, Stream], loader: Loader, recorder: Recorder) -> int:
    """Load the newest state, if there is one; returns the step to go on from, which must be that of all workers."""
    for name, stream in streams.items():
        low, high = distributed.agree(len(stream))
        if low != high:
            raise DataError(f"the workers see from {low} to {high} {name} images: is their data the same?")
    step, folder = 0, recorder.folder
    if folder is not None and (found := engine.load(folder)) is not None:
        step, place = found
        loader.load_state_dict(place)
        log.warning("going on from step %d", step)
    low, high = distributed.agree(step)
    if low != high:
        raise DataError(f"the workers would resume from steps {low} to {high}: is {folder} shared by all of them?")
    if distributed.is_main():
        recorder.resumed(step)
        if engine.device.type == "cpu" and engine.config.precision != "fp32":
            _warn_of_emulation(engine.config.precision)
    return step


class _Reporter:
    """Completes the means of an interval by what is not a mean, and hands them to the recorder."""

    def __init__(self, engine: Engine, recorder: Recorder, monitor: Monitor | None, step: int):
        self._engine, self._recorder, self._monitor = engine, recorder, monitor
        self._images = sum(engine.config.batch_sizes.values())
        self._step, self._since, self._shown = step, time.monotonic(), 0.0
        self._every = engine.config.monitor_every
        self._monitored = step // self._every if self._every else 0
        self._warned = self._warned_of_forgetting = False
        self._numbers: dict[str, float | str] = {}  # of the last interval, for the screen
        self._start: float | None = None  # kNN accuracy of the weights that were given

    def begin(self) -> None:
        """Log how good given weights are before the first step; called on all workers."""
        if distributed.is_main():
            self._recorder.progress(0, {"doing": "first batch"})
        if not self._every or self._engine.config.init is None:
            return
        network = self._engine.network()
        if self._monitor is not None and distributed.is_main():
            self._start = self._monitor(network)
            self._recorder.log(0, {"knn_accuracy": self._start})

    def beat(self, step: int) -> None:
        """Tell the screen that a step is done, if it has not heard of one for a while. The GPU is not waited for."""
        when = time.monotonic()
        if when - self._shown > _PROGRESS_S and distributed.is_main():
            self._recorder.progress(step, self._numbers)
            self._shown = when

    def report(self, step: int, means: dict[str, float], lr: float) -> None:
        """Log an interval that ends at `step`; called on all workers."""
        engine, when, ending = self._engine, time.monotonic(), step == self._engine.num_steps
        if engine.embedding is not None:
            means |= collapse.statistics(engine.embedding)
            self._warned = self._warned or (step >= _SETTLED and _warns_of_collapse(means, step))
        rate = self._images * (step - self._step) / max(when - self._since, 1e-9)
        self._step = step
        network = None
        if self._every and (step // self._every > self._monitored or ending):
            self._monitored = step // self._every
            network = engine.network()  # on all workers: they may hold a part each
        if not distributed.is_main():
            return
        watched = {}
        if self._monitor is not None and network is not None:
            watched["knn_accuracy"] = self._monitor(network)
            self._warn_of_forgetting(step, watched["knn_accuracy"])
        self._recorder.log(step, {**means, **watched, "lr": lr, "images_per_s": rate})
        self._since = time.monotonic()
        self._numbers = {"loss": means.get("loss", float("nan")), "rate": rate}

    def _warn_of_forgetting(self, step: int, now: float) -> None:
        if self._start is None or self._warned_of_forgetting or self._start - now < _FORGOTTEN:
            return
        self._warned_of_forgetting = True
        log.warning(
            "step %d: kNN accuracy %.3f is below that of the weights it began with (%.3f): what they know is being "
            "lost; raise freeze_backbone_steps, lower the learning rate, or set optim.layer_decay below 1",
            step,
            now,
            self._start,
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
