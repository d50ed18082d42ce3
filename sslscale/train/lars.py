"""LARS: a learning rate for each weight matrix, so that large batches train (You et al. 2017, arXiv:1708.03888)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step on a weight w is trust * |w| / |g + wd * w| as long as the plain one (algorithm 1).

    As in SimCLR's code: the momentum runs over scaled gradients, times the learning rate of the moment; groups with
    `adapt=False` (biases and norms) take plain steps.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
        adapt: bool = True,
    ):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": adapt}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every weight that has a gradient; none if the attribute `found_inf`, float (), is not 0."""
        del closure
        found_inf: torch.Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                gradient = weight.grad.add(weight, alpha=group["weight_decay"])
                rate: float | torch.Tensor = group["lr"]
                if group["adapt"]:
                    size, length = weight.norm(), gradient.norm()
                    # on the device, without waiting for it; a weight of all zeros takes a plain step
                    share = torch.where((size > 0) & (length > 0), group["trust"] * size / length.clamp(min=1e-30), 1.0)
                    rate = rate * share
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                if found_inf is None:
                    state["momentum"].mul_(group["momentum"]).add_(gradient.mul_(rate))
                    weight.sub_(state["momentum"])
                    continue
                momentum = state["momentum"] * group["momentum"] + gradient.mul_(rate)
                state["momentum"].copy_(torch.where(found_inf > 0, state["momentum"], momentum))
                weight.sub_(torch.where(found_inf > 0, 0.0, momentum))
