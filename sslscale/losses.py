"""Losses that more than one method uses: plain functions, unreduced unless they say otherwise."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sslscale import distributed
from sslscale.shapes import Float, Int

P = ParamSpec("P")
T = TypeVar("T")


def in_float32(function: Callable[P, T]) -> Callable[P, T]:
    """Run a loss outside autocast: cosines of bfloat16 over a temperature of .07 would be wrong by a tenth."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        device = next((x.device.type for x in args if isinstance(x, torch.Tensor)), "cpu")
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return run


def soft_cross_entropy(
    logits: Float[Tensor, "batch classes"], target: Float[Tensor, "batch classes"]
) -> Float[Tensor, " batch"]:
    """-sum_k target_k log softmax(logits)_k, in float32."""
    return F.cross_entropy(logits.float(), target, reduction="none")


def smooth_labels(label: Int[Tensor, " batch"], num_classes: int, smoothing: float) -> Float[Tensor, "batch classes"]:
    """One-hot labels mixed with the uniform distribution (Szegedy et al. 2016, arXiv:1512.00567, section 7)."""
    hot = F.one_hot(label, num_classes).float()
    return hot * (1 - smoothing) + smoothing / num_classes


def count_classes(label: Int[Tensor, " batch"], num_classes: int) -> Float[Tensor, " classes"]:
    """How often each class occurs; torch.bincount would make the host wait to learn the highest one."""
    counts = torch.zeros(num_classes, device=label.device)
    return counts.scatter_add_(0, label.long(), torch.ones(len(label), device=label.device))


def sharpen(probs: Float[Tensor, "batch classes"], temperature: float) -> Float[Tensor, "batch classes"]:
    """p_k^(1/T) / sum_j p_j^(1/T)."""
    return probs if temperature == 1.0 else torch.softmax(torch.log(probs.clamp(min=1e-30)) / temperature, dim=-1)


def cross_view_entropy(
    scores: Sequence[Float[Tensor, "batch prototypes"]],
    targets: Sequence[Float[Tensor, "batch prototypes"]],
    temperature: float,
) -> Float[Tensor, ""]:
    """H(target of view t, softmax(scores of view s / temperature)), the mean over images and all pairs with s != t.

    `targets` are distributions of the first views, through which no gradient flows (SwAV, arXiv:2006.09882, eqs. 2 and
    6; DINO, arXiv:2104.14294, eq. 3).
    """
    logs = [F.log_softmax(s.float() / temperature, dim=1) for s in scores]
    every = torch.stack(logs).sum(0)  # a target meets all views but its own at once: their logarithms add up
    terms = [
        -distributed.mean((target.detach() * (every - own)).sum(1)) for target, own in zip(targets, logs, strict=False)
    ]
    return torch.stack(terms).mean() / (len(logs) - 1)


def warm_temperature(first: float, last: float, warmup_epochs: float, epoch: float) -> float:
    """A teacher's temperature: from `first` to `last` in a line over the warm-up (DINO, arXiv:2104.14294, 3.2)."""
    return last if epoch >= warmup_epochs else first + (last - first) * epoch / warmup_epochs


def gaussian_rise(progress: float, length: float) -> float:
    """exp(-5 (1 - t)^2), where t goes from 0 to 1 over the first `length` of the training (arXiv:1610.02242)."""
    return math.exp(-5 * (1 - min(progress / length, 1.0)) ** 2)


def linear_rise(progress: float, start: float, end: float) -> float:
    """From 0 to 1 in a line between two moments of the training."""
    return min(max((progress - start) / (end - start), 0.0), 1.0)


def mean_over_kept(values: Float[Tensor, " batch"], kept: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """sum(kept * values) / sum(kept) over all workers' images, 0 if none is kept; gradients are this worker's share."""
    count = distributed.all_sum(kept.sum().detach()).clamp(min=1e-12)
    return (values * kept).sum() * distributed.world_size() / count


def hard_consistency(
    strong: Float[Tensor, "batch classes"], label: Int[Tensor, " batch"], weight: Float[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Cross-entropy of strong views to the classes of the weak ones, each weighed, a mean over the whole batch
    (FixMatch, arXiv:2001.07685, eq. 4)."""
    return distributed.mean(weight * F.cross_entropy(strong, label, reduction="none"))


@in_float32
def distillation_loss(
    logits: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"], temperature: float
) -> Float[Tensor, ""]:
    """T^2 KL(softmax(teacher / T) || softmax(logits / T)), the mean over the batch (arXiv:1503.02531, section 2; DeiT's
    eq. 2, arXiv:2012.12877); no gradient reaches the teacher."""
    student = F.log_softmax(logits.float() / temperature, 1)
    target = F.log_softmax(teacher.detach().float() / temperature, 1)
    return temperature**2 * distributed.mean((target.exp() * (target - student)).sum(1))


@in_float32
def queue_entropies(
    query: Float[Tensor, "rows dim"],
    key: Float[Tensor, "rows dim"],
    queue: Float[Tensor, "keys dim"],
    temperature: float,
) -> Float[Tensor, " rows"]:
    """-log(exp(q . k+ / t) / sum of exp(q . k / t) over k+ and the queue), of each row (MoCo, arXiv:1911.05722, eq. 1).

    All rows have length 1; no gradient reaches keys and queue.
    """
    query, key = query.float(), key.detach().float()
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.detach().T], 1) / temperature
    place = torch.zeros(len(query), dtype=torch.int64, device=query.device)
    return F.cross_entropy(logits, place, reduction="none")


def running_means(means: Float[Tensor, " n"], losses: Float[Tensor, " n"], momentum: float) -> Float[Tensor, " n"]:
    """The running means of some losses over the workers, from those before, which are 0 before the first step."""
    now = distributed.all_sum(losses.detach()) / distributed.world_size()
    return torch.where(means == 0, now, torch.lerp(now, means, momentum))


def of_one_size(
    labeled: Float[Tensor, ""], pseudo: Float[Tensor, ""], means: Float[Tensor, 2], weight: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """(L_h + alpha (mean L_h / mean L_p) L_p) / (1 + alpha), and the ratio, which has no gradient (Zoph et al. 2020,
    arXiv:2006.06882, appendix C): the pseudo-labels of an easy teacher have a small loss, which would else hardly
    count."""
    ratio = means[0] / means[1].clamp(min=1e-12)
    return (labeled + weight * ratio * pseudo) / (1 + weight), ratio
