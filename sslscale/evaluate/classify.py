"""Predictions of a classifier and the numbers that judge them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from sslscale.data.augment import normalize
from sslscale.data.images import Images
from sslscale.data.threads import pool
from sslscale.recipes.model import ImageConfig

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


@torch.inference_mode()
def predict_images(
    network: nn.Module,
    image: ImageConfig,
    images: Images,
    shard: np.ndarray,
    row: np.ndarray,
    *,
    batch_size: int,
    device: torch.device,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Float[Tensor, "samples classes"]:
    """Class probabilities of the images asked for, float32 on the CPU; the network is put into eval mode."""
    network = network.to(device).eval()
    probs = torch.empty(0)
    starts = range(0, len(row), batch_size)

    def fetch(start: int) -> Tensor:
        chosen = slice(start, start + batch_size)
        return images.fetch(shard[chosen], row[chosen], pin=device.type == "cuda")

    reader = pool("reader", 1)
    ahead = reader.submit(fetch, 0)
    for start in starts:
        pixels = ahead.result().to(device, non_blocking=True)
        if start + batch_size < len(row):
            ahead = reader.submit(fetch, start + batch_size)
        part = network(normalize(pixels, image.mean, image.std)).float().softmax(-1)
        if start == 0:
            probs = torch.empty(len(row), part.shape[1])
        probs[start : start + len(part)] = part
        on_progress(min(start + batch_size, len(row)))
    return probs


def measure(
    probs: Float[Tensor, "samples classes"], label: Int[Tensor, " samples"], classes: tuple[str, ...]
) -> dict[str, Any]:
    """Accuracy with its 95 % interval (Wilson), top-5, expected calibration error (15 bins), confusion matrix."""
    confidence, predicted = probs.max(-1)
    right = predicted == label
    num, top = len(label), min(5, len(classes))
    top5 = (probs.topk(top, -1).indices == label[:, None]).any(-1)
    confusion = torch.zeros(len(classes), len(classes), dtype=torch.int64)
    confusion.index_put_((label, predicted), torch.ones(num, dtype=torch.int64), accumulate=True)
    accuracy = right.float().mean().item()
    counts = confusion.sum(1).tolist()
    return {
        "samples": num,
        "classes": list(classes),
        "accuracy": accuracy,
        "accuracy_interval": wilson(accuracy, num),
        "top5_accuracy": top5.float().mean().item(),
        "ece": calibration_error(confidence, right),
        "per_class": {name: confusion[i, i].item() / counts[i] for i, name in enumerate(classes) if counts[i]},
        "confusion": confusion.tolist(),
    }


def wilson(share: float, num: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `num` trials."""
    centre, denominator = share + z * z / (2 * num), 1 + z * z / num
    half = z * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    return (centre - half) / denominator, (centre + half) / denominator


def calibration_error(confidence: Float[Tensor, " samples"], right: Tensor, num_bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, eq. 3): sum_b n_b / n |acc_b - conf_b|."""
    number = (confidence * num_bins).long().clamp(0, num_bins - 1)
    gap = torch.zeros(num_bins, dtype=torch.float64)
    gap.index_add_(0, number, right.double() - confidence.double())
    return (gap.abs().sum() / len(confidence)).item()
