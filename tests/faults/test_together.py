"""Many processes over one root: one does the work, the others wait or read, and nothing is damaged."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sslscale.graph import dag, execution, verify
from sslscale.graph.artifacts import Report
from sslscale.graph.context import RunContext
from sslscale.graph.dag import Stage, stage
from sslscale.storage import jsonio
from tests.finished import Finished

PROCESSES, CALLS = 8, 25


@dataclass(frozen=True, kw_only=True)
class Step:
    number: int
    ran: str  # a folder with a file for each execution


def work(ctx: RunContext, config: Step, *, before: Report | None = None) -> Report:
    Path(config.ran, f"{config.number}-{os.getpid()}-{time.monotonic_ns()}").touch()
    time.sleep(0.02)
    done = before.metrics["done"] if before is not None else 0.0
    return Report(path=str(ctx.path), metrics={"done": done + 1})


def chain(ran: Path, length: int) -> list[Stage]:
    """Each stage needs the one before."""
    stages: list[Stage] = []
    for number in range(length):
        inputs: dict[str, Any] = {"before": stages[-1]} if stages else {}
        stages.append(stage(work, Step(number=number, ran=str(ran)), name=f"step_{number}", **inputs))
    return stages[-1:]


def run_chain(gate: Any, folder: str, answers: Any) -> None:
    root = Path(folder, "runs")
    target = chain(Path(folder, "ran"), 10)
    gate.wait()
    records = execution.run(dag.plan(target, root), root, execution.Inline())
    answers.put({name: record["fields"]["metrics"]["done"] for name, record in records.items()})


def test_eight_processes_over_one_graph_do_each_stage_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    (tmp_path / "ran").mkdir()
    gate, answers = context.Barrier(PROCESSES), context.Queue()
    processes = [context.Process(target=run_chain, args=(gate, str(tmp_path), answers)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert found == [{f"step_{n}": n + 1.0 for n in range(10)}] * PROCESSES
    ran = [file.name.split("-") for file in (tmp_path / "ran").iterdir()]
    assert sorted(int(words[0]) for words in ran) == list(range(10))
    assert not list(tmp_path.rglob("*.tmp*"))


def call_often(gate: Any, number: int, config: str, root: str, answers: Any) -> None:
    from sslscale.cli.main import main

    gate.wait()
    told = []
    for call in range(CALLS):
        name = f"teacher.log_every={1 + number * CALLS + call}"  # the same graph, and another name for the run
        words = [("plan", config, name), ("run", config, "--json"), ("run", config, name, "--json"), ("gc",)]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([*words[(number + call) % len(words)], "--root", root])
        told.append((words[(number + call) % len(words)][0], code, out.getvalue(), err.getvalue()))
    answers.put(told)


@pytest.mark.slow
def test_two_hundred_calls_in_eight_processes_damage_nothing(finished: Finished, tmp_path: Path) -> None:
    """plan, run and gc of a finished graph, all at once."""
    root = tmp_path / "runs"
    shutil.copytree(finished.root, root, symlinks=True)
    context = multiprocessing.get_context("spawn")
    gate, answers = context.Barrier(PROCESSES), context.Queue()
    processes = [
        context.Process(target=call_often, args=(gate, number, str(finished.config), str(root), answers))
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    told = [line for _ in processes for line in answers.get(timeout=250)]
    for process in processes:
        process.join(60)
    assert len(told) == PROCESSES * CALLS
    assert [line for line in told if line[1] != 0] == []
    results = [json.loads(out.strip().splitlines()[-1]) for command, _, out, _ in told if command == "run"]
    assert len(results) == len(told) // 2 and all(one == results[0] for one in results)
    assert {stage["state"] for stage in results[0]["stages"]} == {"cached"}
    whole = verify.verify(root)
    assert whole.damage == []
    for note in (root / "refs").iterdir():
        jsonio.read_json(note)
    assert not list(root.rglob("*.tmp-*"))
