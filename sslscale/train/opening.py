"""A training, opened: its streams, its method with the first weights, and the engine that trains it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sslscale import distributed
from sslscale.data.opening import Inputs, open_stream
from sslscale.data.samples import Samples
from sslscale.data.stream import Stream
from sslscale.errors import ConfigError
from sslscale.graph.artifacts import Checkpoint
from sslscale.graph.context import RunContext
from sslscale.methods.method import build_method
from sslscale.nn.classifier import num_parameters
from sslscale.settings.train import TrainConfig
from sslscale.train import checkpoint, first_weights
from sslscale.train.engine import Engine, best_device, set_up
from sslscale.train.strategy import build_engine


@dataclass(frozen=True)
class Training:
    """What a worker trains with. `first` is the stream whose images an epoch counts."""

    engine: Engine
    streams: Mapping[str, Stream]
    first: str
    num_parameters: int

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the labels that are learned."""
        return self.streams[self.first].samples.index.classes


def open_training(ctx: RunContext, config: TrainConfig, inputs: Inputs) -> Training:
    """Open the streams, build the method and the engine, on every worker alike; raises ConfigError and DataError."""
    wrong = config.check_inputs(inputs.keys())
    if wrong is not None:
        raise ConfigError(f"{ctx.name}: {wrong}")
    torch.set_num_threads(ctx.threads)
    local, device = ctx.local, best_device(ctx.resources)
    set_up(device, deterministic=config.deterministic)
    streams = {
        spec.name: Stream.of(
            spec,
            open_stream(spec, inputs, config, local),
            config,
            cache=local.folder,
            cache_bytes=ctx.resources.cache_bytes,
            threads=ctx.threads,
            device=device,
        )
        for spec in config.method.streams
    }
    first = next(iter(streams))
    samples = streams[first].samples
    torch.manual_seed(config.seed)  # the same first weights on every worker
    method = build_method(config.method, config.model, _num_outputs(ctx, config, samples))
    scratch = ctx.path / "state" / f"memory-{distributed.rank()}"
    method.prepare({name: len(stream) for name, stream in streams.items()}, config, scratch)
    parameters = num_parameters(method.result)
    _require_size(ctx, config, inputs, parameters)
    classes = samples.index.classes
    if "init" in inputs:
        first_weights.initialize_method(method, inputs["init"].dir, classes)
    if "teacher" in inputs:
        method.teach(_teacher(inputs["teacher"].dir, config, classes))  # pyright: ignore[reportCallIssue]
    engine = build_engine(method, config, config.steps(len(samples)), device, ctx.resources)
    return Training(engine, streams, first, parameters)


def _num_outputs(ctx: RunContext, config: TrainConfig, samples: Samples) -> int:
    """The width of the features that the first stream gives, else its number of classes."""
    classes, features = len(samples.index.classes), samples.features
    if features is None:
        return classes
    if config.method.needs_teacher and features.dim != classes:
        raise ConfigError(f"{ctx.name}: the teacher's logits are of {features.dim} classes, the data has {classes}")
    return features.dim


def _require_size(ctx: RunContext, config: TrainConfig, inputs: Inputs, parameters: int) -> None:
    teacher = inputs.get("at_least")
    if isinstance(teacher, Checkpoint) and parameters < teacher.num_parameters:
        raise ConfigError(
            f"{ctx.name}: {config.model.name} has {parameters:,} weights, its teacher {teacher.num_parameters:,}: "
            "Noisy Student's students are equal to their teacher or larger"
        )


def _teacher(folder: Path, config: TrainConfig, classes: tuple[str, ...]) -> Any:
    """A classifier of the same classes that is fed images as the student is."""
    network, info = checkpoint.load_model(folder)
    if info.classes != classes:
        raise ConfigError(f"{folder}: the teacher knows {len(info.classes)} classes, which are not the data's")
    if (info.image.mean, info.image.std) != (config.image.mean, config.image.std):
        own = f"image.mean {info.image.mean} and std {info.image.std}"
        raise ConfigError(f"{folder}: the teacher has {own}: the student must have the same")
    return network
