"""What goes between the host and a device without the host waiting for it."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """A copy on the device; to a GPU through pinned memory, which the host fills and leaves."""
    device = torch.device(device)
    if device.type == "cuda" and x.device.type == "cpu":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


@functools.lru_cache(maxsize=256)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers that stay the same, float32 (n,), sent to each device once."""
    return to_device(torch.tensor(values), device)


class Fetched:
    """Tensors on their way to the host: `get` waits until they are there, which a step later they are."""

    def __init__(self, *tensors: Tensor):
        self._event: Any = None
        if any(x.device.type == "cuda" for x in tensors):
            self._host = [torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for x in tensors]
            for mine, other in zip(self._host, tensors, strict=True):
                mine.copy_(other, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = [x.detach().clone() for x in tensors]

    def get(self) -> list[Tensor]:
        """The tensors on the host."""
        if self._event is not None:
            self._event.synchronize()
        return self._host
