"""The newest embeddings of past batches, the same on every worker."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslscale import distributed
from sslscale.shapes import Float


class Queue(nn.Module):
    """`size` rows of length 1, first in first out; it begins with random ones. Part of a method's state."""

    rows: Tensor
    place: Tensor
    filled: Tensor

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.register_buffer("rows", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))  # where the next row goes
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))  # rows that are no longer random
        self._known: int | None = None  # `filled`, as the host counts it
        self.register_load_state_dict_post_hook(lambda module, keys: setattr(module, "_known", None))

    @property
    def full(self) -> bool:
        """Whether no row is random any more; the device is asked once, when a training begins or goes on."""
        if self._known is None:
            self._known = int(self.filled)
        return self._known == len(self.rows)

    @torch.no_grad()
    def push(self, rows: Float[Tensor, "batch dim"]) -> None:
        """Take up the rows of all workers, in the workers' order; the oldest give way."""
        rows = distributed.gather(rows.detach().to(self.rows.dtype))[-len(self.rows) :]
        where = (self.place + torch.arange(len(rows), device=rows.device)) % len(self.rows)
        self.rows = self.rows.index_copy(0, where, rows)  # not in place: a graph may still read the old ones
        self.place.add_(len(rows)).remainder_(len(self.rows))
        self.filled.add_(len(rows)).clamp_(max=len(self.rows))
        if self._known is not None:
            self._known = min(self._known + len(rows), len(self.rows))

    def nearest(self, z: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """The row of the highest cosine for each of `z`; no gradient flows."""
        with torch.no_grad():
            return self.rows[(F.normalize(z.float(), dim=1) @ self.rows.T).argmax(1)]
