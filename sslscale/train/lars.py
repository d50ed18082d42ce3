"""LARS: a learning rate for each weight matrix, so that large batches train (You et al. 2017, arXiv:1708.03888)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


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
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            for weight in weights:
                if "momentum" not in self.state[weight]:
                    self.state[weight]["momentum"] = torch.zeros_like(weight)
            if weights and self.grouped(weights):
                self._step_together(group, weights, found_inf)
            else:
                for weight in weights:
                    self._step_alone(group, weight, found_inf)

    @staticmethod
    def grouped(weights: Sequence[Tensor]) -> bool:
        """Whether a few kernels for all weights beat some for each: on a GPU, where launching them counts."""
        return weights[0].device.type == "cuda" and type(weights[0]) is not DTensor

    def _step_alone(self, group: dict[str, Any], weight: Tensor, found_inf: Tensor | None) -> None:
        assert weight.grad is not None
        gradient = weight.grad.add(weight, alpha=group["weight_decay"])
        rate: float | Tensor = group["lr"]
        if group["adapt"]:
            rate = rate * _share(weight.norm(), gradient.norm(), group["trust"])
        momentum = self.state[weight]["momentum"]
        if found_inf is None:
            momentum.mul_(group["momentum"]).add_(gradient.mul_(rate))
            weight.sub_(momentum)
            return
        new = momentum * group["momentum"] + gradient.mul_(rate)
        momentum.copy_(torch.where(found_inf > 0, momentum, new))
        weight.sub_(torch.where(found_inf > 0, 0.0, new))

    def _step_together(self, group: dict[str, Any], weights: list[Tensor], found_inf: Tensor | None) -> None:
        gradients = list(_foreach("add")([w.grad for w in weights], weights, alpha=group["weight_decay"]))
        decay: float | Tensor = group["momentum"]
        if found_inf is not None:  # then gradients of 0, a momentum that stays, and a step of 0
            gradients = [torch.where(found_inf > 0, 0.0, gradient) for gradient in gradients]
            decay = torch.where(found_inf > 0, 1.0, decay)
        if group["adapt"]:
            sizes, lengths = (torch.stack(_foreach("norm")(x)) for x in (weights, gradients))
            rates = group["lr"] * _share(sizes, lengths, group["trust"])
            _foreach("mul_")(gradients, list(rates.unbind()))
        else:
            _foreach("mul_")(gradients, group["lr"])
        momenta = [self.state[weight]["momentum"] for weight in weights]
        _foreach("mul_")(momenta, decay)
        _foreach("add_")(momenta, gradients)
        steps = momenta if found_inf is None else _foreach("mul")(momenta, (found_inf <= 0).to(momenta[0].dtype))
        _foreach("sub_")(weights, steps)


def _share(size: Tensor, length: Tensor, trust: float) -> Tensor:
    """trust * |w| / |g|, on the device, without waiting for it; a weight of all zeros takes a plain step."""
    return torch.where((size > 0) & (length > 0), trust * size / length.clamp(min=1e-30), 1.0)


def _foreach(name: str) -> Callable[..., Any]:
    """torch's operation on a list of tensors."""
    return getattr(torch, f"_foreach_{name}")
