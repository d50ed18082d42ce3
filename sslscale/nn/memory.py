"""What is remembered of every image: one row each, in this machine's memory or in a file that is mapped into it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class SampleMemory(nn.Module):
    """Rows of float32 numbers, 0 at first, addressed by an image's number in its stream.

    They stay in host memory while the rest of a method goes to a GPU, and are part of its state (no buffer: what is to
    be sent between GPUs could not lie here). With a `scratch` folder they are mapped from a file there (sparse, of
    rows * width * 4 bytes), so that the system may write them out when memory is short; each worker needs a folder of
    its own.
    """

    def __init__(self, num_rows: int, width: int, scratch: Path | None = None):
        super().__init__()
        if scratch is None or num_rows == 0:
            self.rows = torch.zeros(num_rows, width)
        else:
            scratch.mkdir(parents=True, exist_ok=True)
            file = scratch / "memory.bin"
            file.unlink(missing_ok=True)
            self.rows = torch.from_file(str(file), shared=True, size=num_rows * width).view(num_rows, width)

    def get_extra_state(self) -> Tensor:
        return self.rows

    def set_extra_state(self, state: Tensor) -> None:
        self.rows.copy_(state)

    def read(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch width"]:
        """The rows of these images, a copy on the index's device."""
        return self.rows[index.cpu()].to(index.device, non_blocking=True)

    @torch.no_grad()
    def write(self, index: Int[Tensor, " batch"], rows: Float[Tensor, "batch width"]) -> None:
        """Replace the rows of these images."""
        self.rows[index.cpu()] = rows.to(self.rows)
