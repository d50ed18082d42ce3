"""Batches of several streams, made ahead of need."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, wait
from typing import Any

import torch

from sslscale.data.batch import Batch
from sslscale.data.stream import RawBatch, Stream
from sslscale.data.threads import pool
from sslscale.errors import ConfigError


class Loader:
    """The batches of some streams for steps 0 .. num_steps - 1, made ahead of need.

    On a CPU `threads` threads make whole batches each; for a GPU they read, and a stream of the GPU's own augments
    the next batch while the last one trains. Going on from `state_dict` gives the very samples that would have come,
    on any number of workers.
    """

    def __init__(self, streams: Mapping[str, Stream], num_steps: int, *, threads: int = 1, depth: int = 2):
        self._streams, self._num_steps = streams, num_steps
        self._threads, self._depth = max(threads, 1), depth
        self._step = 0

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch begins: the step, and the global batch of each stream."""
        return {"step": self._step, "batch_sizes": {name: s.batch_size for name, s in self._streams.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; raises ConfigError if the batches are not of the same size."""
        sizes = self.state_dict()["batch_sizes"]
        if state["batch_sizes"] != sizes:
            raise ConfigError(f"cannot go on in batches of {sizes} from a state with {state['batch_sizes']}")
        self._step = state["step"]

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        device = next(iter(self._streams.values())).device
        made = self._made(self._finished if device.type == "cpu" else self._loaded)
        if device.type == "cuda":
            made = _on_a_stream(made, self._streams, device)
        try:
            for batch in made:
                self._step += 1
                yield batch
        finally:
            made.close()
            for stream in self._streams.values():
                stream.close()

    def _loaded(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._streams[name].load(*where) for name, where in chosen.items()}

    def _finished(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._streams[name].finish(raw) for name, raw in self._loaded(chosen).items()}

    def _made(self, make: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Generator[dict[str, Any], None, None]:
        """Results of `make` for each step in order; some are under way."""
        readers = pool("reader", self._threads)
        waiting: deque[Future[dict[str, Any]]] = deque()
        step = self._step
        try:
            while step < self._num_steps or waiting:
                while step < self._num_steps and len(waiting) < self._threads + self._depth:
                    chosen = {name: stream.choose(step) for name, stream in self._streams.items()}
                    waiting.append(readers.submit(make, chosen))
                    step += 1
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            wait(waiting)


def _on_a_stream(
    loaded: Generator[dict[str, RawBatch], None, None], streams: Mapping[str, Stream], device: torch.device
) -> Generator[dict[str, Batch], None, None]:
    """Finish one batch ahead on a CUDA stream beside the one that trains."""
    side = torch.cuda.Stream(device)

    def finish(raw: dict[str, RawBatch]) -> dict[str, Batch]:
        # it waits for no step: what it allocates comes from memory of its own, which the training gives back by events
        with torch.cuda.stream(side):
            return {name: streams[name].finish(part) for name, part in raw.items()}

    def receive(batch: dict[str, Batch]) -> dict[str, Batch]:
        here = torch.cuda.current_stream(device)
        here.wait_stream(side)
        for part in batch.values():
            for x in (*part.views, part.index, *part.fields.values()):
                x.record_stream(here)
        return batch

    try:
        ahead: dict[str, Batch] | None = None
        for raw in loaded:
            ready, ahead = ahead, None
            if ready is not None:
                ready = receive(ready)  # before the next batch is queued: this one must not wait for it
            ahead = finish(raw)
            if ready is not None:
                yield ready
        if ahead is not None:
            yield receive(ahead)
    finally:
        loaded.close()
