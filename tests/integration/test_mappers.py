"""Processes that take items in turn: each item is done once, whatever dies."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sslscale.cluster.connection import connect, disconnect
from sslscale.cluster.mappers import Mappers, Pipelined
from sslscale.errors import DataError
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


def test_the_next_item_is_fetched_while_one_is_worked_on(context: Callable[..., RunContext]) -> None:
    begun = [threading.Event() for _ in range(6)]
    fetched: list[int] = []

    def fetch(item: int) -> int:
        fetched.append(item)
        begun[item].set()
        return item * 10

    def work(item: int, got: int) -> int:
        assert item == 5 or begun[item + 1].wait(20)
        return got + item

    with Mappers(lambda ctx: Pipelined(fetch, work), context("pairs"), 6) as mappers:
        assert mappers.map(range(6)) == [0, 11, 22, 33, 44, 55]
    assert sorted(fetched) == [0, 1, 2, 3, 4, 5]  # each once


def test_an_error_of_fetching_is_raised_where_its_item_is_worked_on(context: Callable[..., RunContext]) -> None:
    done: list[int] = []

    def fetch(item: int) -> int:
        if item == 2:
            raise DataError("shard 2 is damaged")
        return item

    def work(item: int, got: int) -> int:
        done.append(got)
        return got

    with (
        Mappers(lambda ctx: Pipelined(fetch, work), context("bad"), 4) as mappers,
        pytest.raises(DataError, match="shard 2"),
    ):
        mappers.map(range(4))
    assert done == [0, 1]
