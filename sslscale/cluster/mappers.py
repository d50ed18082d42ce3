"""Processes of a stage that take one item after another, on Ray."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sslscale.cluster.workers import gpus_per_worker, redirect_output, threads_per_worker, unwrap, workers_here
from sslscale.errors import UserError
from sslscale.graph.context import RunContext
from sslscale.graph.stage_warnings import collect_warnings

Make = Callable[[RunContext], "Callable[..., Any] | Pipelined"]
_AHEAD = 2  # one item that a process works on, and one that waits there, so that it need not wait for the driver

Finished = Callable[[Any, Any], None]


@dataclasses.dataclass(frozen=True)
class Pipelined:
    """A function in two parts: `fetch(item)` gets what `work(item, fetched)` needs.

    While a process works on an item, it fetches the next one in another thread.
    """

    fetch: Callable[[Any], Any]
    work: Callable[[Any, Any], Any]


class _Calls:
    """Calls a function with one item after another, having fetched ahead what it was told of."""

    def __init__(self, function: Callable[..., Any] | Pipelined):
        self._function = function
        self._fetched: dict[Any, Future] = {}
        self._begun: Any = None
        self._lock, self._thread = threading.Lock(), ThreadPoolExecutor(1, "fetch")

    @property
    def fetches(self) -> bool:
        """Whether items can be fetched ahead."""
        return isinstance(self._function, Pipelined)

    def prepare(self, item: Any) -> None:
        """Begin to fetch an item that will be asked for next."""
        if isinstance(self._function, Pipelined):
            with self._lock:
                if item != self._begun and item not in self._fetched:
                    self._fetched[item] = self._thread.submit(self._function.fetch, item)

    def __call__(self, item: Any, *shared: Any) -> Any:
        if not isinstance(self._function, Pipelined):
            return self._function(item, *shared)
        with self._lock:
            self._begun, fetched = item, self._fetched.pop(item, None)
        return self._function.work(item, self._function.fetch(item) if fetched is None else fetched.result())


class Mappers:
    """Processes that keep what is expensive to load, and are called with many items. Use it in a `with` statement.

    `make(ctx)` runs once per process and returns the function; its context has the threads of that process. One worker
    works in this process; more are Ray actors, which take the next item as they are free. The item of an actor that
    dies goes to another, up to `max_failures` times; ray.util.ActorPool would lose it.
    """

    def __init__(self, make: Make, ctx: RunContext, most: int):
        self._make, self._ctx = make, ctx
        self._num_workers = min(ctx.resources.num_workers, most)
        self._calls: _Calls | None = None
        self.actors: list[Any] = []
        self._started = 0

    def __enter__(self) -> Mappers:
        return self

    def __exit__(self, *reason: object) -> None:
        if self.actors:
            import ray

            for actor in self.actors:
                ray.kill(actor)

    def map(
        self,
        items: Sequence[Any],
        *shared: Any,
        finished: Finished = lambda item, result: None,
        keep: bool = True,
    ) -> list[Any]:
        """The results of function(item, *shared) in the order of the items; `finished` is called as each one ends.

        Without `keep`, results go to `finished` alone: where there are many, or large ones.
        """
        if not items:
            return []
        results: list[Any] = [None] * len(items)
        if self._num_workers > 1:
            self._map_on_actors(items, shared, results, finished, keep)
            return results
        self._calls = self._calls or _Calls(self._make(self._ctx))
        for place, item in enumerate(items):
            if place + 1 < len(items):
                self._calls.prepare(items[place + 1])
            result = self._calls(item, *shared)
            self._ctx.push()
            finished(item, result)
            results[place] = result if keep else None
        return results

    def _map_on_actors(
        self, items: Sequence[Any], shared: tuple[Any, ...], results: list[Any], finished: Finished, keep: bool
    ) -> None:
        import ray

        while len(self.actors) < self._num_workers:
            self.start()
        dispatcher = _Dispatcher(self, items, tuple(ray.put(value) for value in shared))  # sent once for all items
        try:
            while dispatcher.unfinished:
                dispatcher.assign()
                place, result = dispatcher.next_result(self._ctx.resources.max_failures)
                if place is not None:
                    results[place] = result if keep else None
                    finished(items[place], result)
            self._ctx.pull()
        except Exception as error:
            raise unwrap(error) from None

    def start(self) -> Any:
        """Ask for one more process; it works as soon as the cluster has room for it."""
        import ray

        resources = self._ctx.resources
        remote: Any = ray.remote
        actor = remote(concurrency_groups={"prepare": 1})(_Mapper).options(
            num_cpus=resources.cpus_per_worker or 1,
            num_gpus=gpus_per_worker(resources.gpus_per_worker, int(ray.cluster_resources().get("GPU", 0))),
        )
        self._started += 1
        log = self._ctx.root / "logs" / f"{self._ctx.path.name}-mapper{self._started - 1}.log"
        self.actors.append(actor.remote(self._make, self._ctx, str(log)))
        return self.actors[-1]


class _Dispatcher:
    """Which items wait, which actor has which, and what becomes of the items of an actor that dies."""

    def __init__(self, mappers: Mappers, items: Sequence[Any], shared: tuple[Any, ...]):
        self._mappers, self._items, self._shared = mappers, items, shared
        self._waiting, self._failures = list(reversed(range(len(items)))), 0
        self._load: dict[Any, int] = {}  # items that each actor has
        self._prepares = False
        # by reference: the actor, and the item's place; None while the actor starts
        self._running: dict[Any, tuple[Any, int | None]] = {a.ready.remote(): (a, None) for a in mappers.actors}

    @property
    def unfinished(self) -> bool:
        """Whether items wait or are being worked on."""
        return bool(self._waiting) or any(place is not None for _, place in self._running.values())

    def assign(self) -> None:
        """Give every actor an item, then a second one; the last items go to who is free."""
        for depth in range(_AHEAD):
            for actor in [one for one, count in self._load.items() if count == depth]:
                if self._waiting and (not depth or len(self._waiting) > len(self._load)):
                    place = self._waiting.pop()
                    if depth and self._prepares:
                        actor.prepare.options(concurrency_group="prepare").remote(self._items[place])
                    self._running[actor.call.remote(self._items[place], *self._shared)] = (actor, place)
                    self._load[actor] += 1

    def next_result(self, max_failures: int) -> tuple[int | None, Any]:
        """Wait for one call; returns the item's place and the result, or None if it was a start or an actor died."""
        import ray
        import ray.exceptions

        (reference,), _ = ray.wait(list(self._running), num_returns=1)
        actor, place = self._running.pop(reference)
        try:
            result = ray.get(reference)
        except ray.exceptions.RayActorError as error:  # its process or node is gone: another takes the item
            self._replace(actor, place, error, max_failures)
            return None, None
        if place is None:
            self._prepares = self._prepares or result
        if actor in self._mappers.actors:
            self._load[actor] = self._load.get(actor, 1) - 1
        return place, result

    def _replace(self, actor: Any, place: int | None, error: Exception, max_failures: int) -> None:
        if place is not None:
            self._waiting.append(place)
        if actor not in self._mappers.actors:  # known from its other item
            return
        self._failures += 1
        if isinstance(unwrap(error), UserError) or self._failures > max_failures:
            raise error
        self._load.pop(actor, None)
        self._mappers.actors.remove(actor)
        started = self._mappers.start()
        self._running[started.ready.remote()] = (started, None)  # where there is room for it, maybe never


class _Mapper:
    """A process that keeps what `make` loaded and is called with one item at a time."""

    def __init__(self, make: Make, ctx: RunContext, log: str):
        self._make, self._log, self._ctx = make, Path(log), ctx
        self._calls: _Calls | None = None

    def ready(self) -> bool:
        """Call `make` once; returns whether items can be fetched ahead.

        In the thread that makes the calls, as torch remembers its number of threads by thread.
        """
        if self._calls is None:
            self._calls = self._made()
        return self._calls.fetches

    def _made(self) -> _Calls:
        resources = self._ctx.resources
        threads = threads_per_worker(resources.cpus_per_worker, workers_here(resources.num_workers))
        with redirect_output(self._log), collect_warnings(self._ctx.path):
            self._ctx.pull_inputs()
            return _Calls(self._make(dataclasses.replace(self._ctx, threads=threads)))

    def prepare(self, item: Any) -> None:
        """Fetch what the next call needs; runs beside the current one."""
        assert self._calls is not None
        self._calls.prepare(item)

    def call(self, item: Any, *shared: Any) -> Any:
        with redirect_output(self._log), collect_warnings(self._ctx.path):
            assert self._calls is not None
            result = self._calls(item, *shared)
            self._ctx.push()
            return result
