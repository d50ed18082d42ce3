"""What a frozen network gives for many images: probabilities or features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from sslscale.data.augment import normalize
from sslscale.data.images import Images
from sslscale.data.threads import pool
from sslscale.errors import DataError
from sslscale.settings.model import ImageConfig
from sslscale.shapes import Float
from sslscale.train.allocator import keep_freed_memory


@torch.inference_mode()
def network_outputs(
    network: nn.Module,
    image: ImageConfig,
    images: Images,
    shard: np.ndarray,
    row: np.ndarray,
    *,
    batch_size: int,
    device: torch.device,
    precision: str = "fp32",
    on_progress: Callable[[int], None] = lambda done: None,
) -> Float[Tensor, "samples outputs"]:
    """Outputs for the images asked for, float32 on the CPU; the network is put into eval mode.

    They stay on the device until all are there, so that the host waits once. Raises DataError for outputs that are not
    finite: as scores they would be nobody's classes, silently.
    """
    if device.type == "cpu":
        keep_freed_memory()
    network = network.to(device).eval()
    outputs: list[Tensor] = []

    def fetch(start: int) -> Tensor:
        chosen = slice(start, start + batch_size)
        return images.fetch(shard[chosen], row[chosen], pin=device.type == "cuda")

    reader = pool("reader", 1)
    ahead = reader.submit(fetch, 0)
    for start in range(0, len(row), batch_size):
        pixels = ahead.result().to(device, non_blocking=True)
        if start + batch_size < len(row):
            ahead = reader.submit(fetch, start + batch_size)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            part = network(normalize(pixels, image.mean, image.std))
        outputs.append(part.float())
        on_progress(min(start + batch_size, len(row)))
    found = torch.cat(outputs).cpu() if outputs else torch.empty(0)
    wrong = int((~found.isfinite()).any(-1).sum()) if len(row) else 0
    if wrong:
        raise DataError(
            f"the network's outputs are not finite for {wrong} of {len(row)} images: did its training diverge, or is "
            "image.std of the configuration far from the images' own?"
        )
    return found
