"""What is remembered of every image: one row each, on the GPU where it fits, else in the host's memory or in a file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sslscale.data.transfer import Fetched, to_device
from sslscale.shapes import Float, Int

ON_GPU_BYTES = 2 << 30  # a larger memory stays on the host


class SampleMemory(nn.Module):
    """Rows of float32 numbers, 0 at first, addressed by an image's number in its stream.

    On a GPU a memory of up to ON_GPU_BYTES lies there, and nobody waits for it. A larger one stays in host memory while
    the rest of the method goes to the GPU: what a step writes is on its way while the step goes on, and taken up before
    the next one reads. Either is part of the method's state, and no buffer: what is to be sent between GPUs could not
    lie on the host. With a `scratch` folder the rows are mapped from a file there (sparse, of rows * width * 4 bytes),
    so that the system may write them out when memory is short; each worker needs a folder of its own.
    """

    def __init__(self, num_rows: int, width: int, scratch: Path | None = None):
        super().__init__()
        self._pending: tuple[Tensor, Fetched] | None = None
        if scratch is None or num_rows == 0:
            self.rows = torch.zeros(num_rows, width)
        else:
            scratch.mkdir(parents=True, exist_ok=True)
            file = scratch / "memory.bin"
            file.unlink(missing_ok=True)
            self.rows = torch.from_file(str(file), shared=True, size=num_rows * width).view(num_rows, width)

    def get_extra_state(self) -> Tensor:
        self._take_up()
        return self.rows

    def set_extra_state(self, state: Tensor) -> None:
        self._pending = None
        self.rows.copy_(state)

    def read(self, numbers: Int[Tensor, " batch"], device: torch.device) -> Float[Tensor, "batch width"]:
        """The rows of these images, a copy on the device; `numbers` are on the host."""
        self._settle(device)
        self._take_up()
        if self.rows.device == device:
            return self.rows[to_device(numbers, device)]
        return to_device(self.rows[numbers], device)

    @torch.no_grad()
    def write(self, numbers: Int[Tensor, " batch"], rows: Float[Tensor, "batch width"]) -> None:
        """Replace the rows of these images; `numbers` are on the host."""
        self._take_up()
        rows = rows.to(self.rows.dtype)
        if self.rows.device == rows.device:
            self.rows[to_device(numbers, rows.device)] = rows
        else:
            self._pending = (numbers, Fetched(rows))

    def _settle(self, device: torch.device) -> None:
        """Move to the GPU that reads, if there is room for it."""
        fits = self.rows.numel() * self.rows.element_size() <= ON_GPU_BYTES
        if device.type == "cuda" and self.rows.device.type == "cpu" and fits:
            self.rows = self.rows.to(device)

    def _take_up(self) -> None:
        """Write what the step before left."""
        if self._pending is not None:
            numbers, fetched = self._pending
            self._pending = None
            self.rows[numbers] = fetched.get()[0]
