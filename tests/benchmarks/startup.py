"""What a stage costs before it does anything: two training workers beside bare Ray Train's, and six stages in a row.

    python tests/benchmarks/startup.py [--repeats 2] [--json]

Bare: a TorchTrainer of two workers whose loop imports torch and meets at a barrier. Ours: the same loop through
workers.train_workers, with its log files and its way of finding errors. In turn, in one Ray session. Then six stages
of one worker each that import torch: how many processes they ran in, which is how often torch was imported.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslscale.cluster.connection import connect, disconnect
from sslscale.cluster.runner import RayRunner
from sslscale.cluster.workers import train_workers
from sslscale.graph import dag, execution
from sslscale.graph.artifacts import Report
from sslscale.graph.context import RunContext
from sslscale.graph.dag import stage
from sslscale.graph.resources import Resources


def meet(work: Any) -> int:
    """What every worker does."""
    import torch
    import torch.distributed as dist

    del work
    dist.barrier()
    return torch.get_num_threads()


def bare(folder: Path) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    TorchTrainer(
        meet,
        train_loop_config={},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(name=f"bare-{time.time_ns()}", storage_path=str(folder)),
    ).fit()


def ours(folder: Path) -> None:
    path = folder / f"stage-{time.time_ns()}"
    path.mkdir()
    train_workers(
        lambda ctx, work: meet(work),
        None,
        RunContext(path=path, root=folder, name="stage", resources=Resources(num_workers=2)),
    )


@dataclass(frozen=True, kw_only=True)
class Number:
    of: int


def importing(ctx: RunContext, config: Number) -> Report:
    """A stage that needs torch."""
    import torch

    del config
    return Report(path=str(ctx.path), metrics={"pid": os.getpid(), "threads": torch.get_num_threads()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, Any] = {"bare_s": [], "ours_s": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        connect()
        for _ in range(options.repeats):
            for label, run in (("bare_s", bare), ("ours_s", ours)):
                started = time.perf_counter()
                run(folder)
                found[label].append(time.perf_counter() - started)
        disconnect()
        stages = [stage(importing, Number(of=n), name=f"stage_{n}") for n in range(6)]
        runner = RayRunner(folder / "logs")
        pids, times = [], []
        try:
            for one in stages:  # one after another, as trainings are
                started = time.perf_counter()
                records = execution.run(dag.plan([one], folder), folder, runner)
                times.append(time.perf_counter() - started)
                pids.append(records[one.name]["fields"]["metrics"]["pid"])
        finally:
            runner.close()
    found |= {"processes": len(set(pids)), "stage_s": times}
    bare_s, ours_s = statistics.median(found["bare_s"]), statistics.median(found["ours_s"])
    print(
        f"two workers, start to end: bare Ray Train {bare_s:.1f} s, a stage {ours_s:.1f} s ({ours_s - bare_s:+.1f} s)"
    )
    rest = max(times[1:])
    print(f"six stages in {len(set(pids))} process(es): the first {times[0]:.1f} s, the others {rest:.1f} s at most")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
