"""Every method trained compiled and not, in a process without checks of shapes, which would be compiled too.

Prints for each method the number of graphs after each step, and what differs at the end, as JSON.
"""

from __future__ import annotations

import dataclasses
import json

import torch
from torch._dynamo.utils import counters

from sslscale.methods.method import StepInfo, build_method
from sslscale.train.engine import Engine
from tests.configurations import CONFIGS, batch_of

STEPS = 10


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


def main() -> None:
    found = {}
    for name in CONFIGS:
        torch._dynamo.reset()
        counters.clear()
        graphs, state = trained(name, compiled=True)
        _, plain = trained(name, compiled=False)
        differs = [n for n, v in plain.items() if not torch.allclose(state[n], v, rtol=1e-4, atol=1e-5, equal_nan=True)]
        found[name] = {"graphs": graphs, "differs": differs}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
