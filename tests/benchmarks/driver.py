"""What the driver of a run keeps and does for each shard and each stage.

    python tests/benchmarks/driver.py [--items 100000] [--stages 2000] [--json]

- items: a stage's list of so many shards, given to two processes that do nothing: calls a second, and the growth of the
  driver's resident memory per item.
- stages: planning and running so many stages that read one other and only write their record: milliseconds and bytes of
  the driver for each.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sslscale.cluster.connection import connect, disconnect
from sslscale.cluster.mappers import Mappers
from sslscale.graph import dag, execution
from sslscale.graph.artifacts import Dataset
from sslscale.graph.context import RunContext
from sslscale.graph.resources import Resources
from tests.benchmarks.ten_million import resident


def make(ctx: RunContext) -> Callable[[int], int]:
    """A process that does nothing."""
    return int


def items(root: Path, count: int) -> dict[str, float]:
    """Calls a second, and bytes of the driver an item."""
    connect()
    resources = Resources(num_workers=2, cpus_per_worker=1)
    context = RunContext(path=root / "items", root=root, name="items", resources=resources)
    context.path.mkdir()
    seen = [0]

    def finished(item: int, result: int) -> None:
        seen[0] += 1
        context.progress(seen[0], count)

    try:
        with Mappers(make, context, count) as mappers:
            mappers.map(range(1000), finished=finished, keep=False)  # the processes have started
            seen[0], before, start = 0, resident(), time.perf_counter()
            mappers.map(range(count), finished=finished, keep=False)
            seconds = time.perf_counter() - start
            grown = resident() - before
    finally:
        disconnect()
    assert seen[0] == count
    return {"items": count, "items_per_s": count / seconds, "bytes_per_item": grown / count}


@dataclass(frozen=True, kw_only=True)
class Number:
    """A stage's configuration."""

    value: int


def nothing(ctx: RunContext, config: Number, *, data: Dataset | None = None) -> Dataset:
    """A stage that only writes its record."""
    return Dataset(path=str(ctx.path), num_samples={"labeled": config.value}, classes=())


def stages(root: Path, count: int) -> dict[str, float]:
    """Milliseconds and bytes of the driver a stage."""
    before, start = resident(), time.perf_counter()
    first = dag.stage(nothing, Number(value=0), name="0")
    targets = [dag.stage(nothing, Number(value=value), name=str(value), data=first) for value in range(1, count)]
    planned = dag.plan(targets, root)
    plan_s = time.perf_counter() - start
    execution.run(planned, root, execution.Inline())
    run_s = time.perf_counter() - start - plan_s
    return {
        "stages": len(planned),
        "plan_ms_per_stage": 1000 * plan_s / count,
        "run_ms_per_stage": 1000 * run_s / count,
        "bytes_per_stage": (resident() - before) / count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--stages", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp())
    result = {**stages(root, options.stages), **items(root, options.items)}
    for name, value in result.items():
        print(f"{name:20} {value:,.3f}")
    if options.json:
        print(json.dumps(result))
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
