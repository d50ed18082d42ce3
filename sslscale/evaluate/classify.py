"""The numbers that judge predictions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sslscale.shapes import Float, Int


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
    if num == 0:
        return 0.0, 1.0  # nothing is known
    centre, denominator = share + z * z / (2 * num), 1 + z * z / num
    half = z * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    # the interval holds the share itself, which rounding puts outside where none or all are right
    low, high = (centre - half) / denominator, (centre + half) / denominator
    return min(max(low, 0.0), share), max(min(high, 1.0), share)


def calibration_error(confidence: Float[Tensor, " samples"], right: Tensor, num_bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, eq. 3): sum_b n_b / n |acc_b - conf_b|."""
    number = (confidence * num_bins).long().clamp(0, num_bins - 1)
    gap = torch.zeros(num_bins, dtype=torch.float64)
    gap.index_add_(0, number, right.double() - confidence.double())
    return (gap.abs().sum() / len(confidence)).item()
