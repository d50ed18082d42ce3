"""`compile: true` makes one graph of a method's step, or two, and none anew while the training goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
import torch._dynamo
from torch._dynamo.utils import counters

from sslscale.methods.method import StepInfo, build_method
from sslscale.methods.settings import method_names
from sslscale.train.engine import Engine
from tests.configurations import CONFIGS, batch_of

STEPS = 10


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def trained(name: str, *, compiled: bool) -> tuple[list[int], dict[str, torch.Tensor]]:
    """Graphs known after each step, and the state at the end."""
    config = dataclasses.replace(CONFIGS[name], sync_batch_norm=False)
    sizes = config.batch_sizes
    torch.manual_seed(0)
    method = build_method(config.method, config.model, 10)
    method.prepare({stream: 200 for stream in sizes}, config)
    engine = Engine(method, config, 40, torch.device("cpu"))
    if compiled:
        engine._compile(backend="eager")
    method.train()
    found = []
    for step in range(STEPS):
        batch = {stream: batch_of(config, stream, size, step) for stream, size in sizes.items()}
        torch.manual_seed(step)
        engine.train_step(batch, StepInfo(step + 20, (step + 20) / 40, 10 + step / 4))
        found.append(counters["stats"]["unique_graphs"])
    return found, {n: v.clone() for n, v in method.state_dict().items() if isinstance(v, torch.Tensor)}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_is_compiled_once_and_gives_the_same(name: str) -> None:
    graphs, state = trained(name, compiled=True)
    assert 1 <= graphs[-1] <= 2 and graphs[-1] == graphs[3], graphs
    _, plain = trained(name, compiled=False)
    for key, value in plain.items():
        torch.testing.assert_close(state[key], value, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


def test_every_method_is_compiled() -> None:
    assert {config.method.name for config in CONFIGS.values()} == set(method_names())
