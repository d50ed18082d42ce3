"""Processes that take items in turn: each item is done once, whatever dies."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sslscale.cluster.connection import connect, disconnect
from sslscale.cluster.mappers import Mappers
from sslscale.graph.context import RunContext


@pytest.mark.slow
def test_items_of_a_dead_process_are_processed_once(context: Callable[..., RunContext], tmp_path: Path) -> None:
    done, died = tmp_path / "done", tmp_path / "died"
    (tmp_path / "logs").mkdir()

    def make(ctx: RunContext) -> Callable[[int], int]:
        def double(item: int) -> int:
            if item == 17 and not died.exists():  # while another item waits in this process
                died.touch()
                time.sleep(0.5)  # what it did before has been heard of
                os._exit(1)
            time.sleep(0.01)
            with done.open("a") as log:
                log.write(f"{os.getpid()} {item}\n")
            return 2 * item

        return double

    connect()
    try:
        heard: list[int] = []
        with Mappers(make, context("double", num_workers=2, cpus_per_worker=1), 60) as mappers:
            found = mappers.map(range(60), finished=lambda item, result: heard.append(item))
            again = mappers.map(range(100, 130))
    finally:
        disconnect()
    assert died.exists() and found == [2 * item for item in range(60)] and sorted(heard) == list(range(60))
    assert again == [2 * item for item in range(100, 130)]
    processes, items = zip(*(map(int, line.split()) for line in done.read_text().splitlines()), strict=True)
    assert sorted(items) == [*range(60), *range(100, 130)]
    assert len(set(processes)) >= 2
