"""Everything that depends on how many processes train, and with what: placement, precision, gradients, weights."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sslscale import distributed
from sslscale.data.loader import Batch
from sslscale.errors import ConfigError
from sslscale.methods.method import Guess, Losses, Method
from sslscale.nn.batch_norm import use_global
from sslscale.recipes.train import TrainConfig
from sslscale.train.optim import build_optimizer, lr_share, weight_decay


def best_device() -> torch.device:
    """This worker's GPU if there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


class Engine:
    """Trains one method on this worker, alone or with others by DistributedDataParallel."""

    def __init__(self, method: Method, config: TrainConfig, num_steps: int, device: torch.device):
        self.method = method.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.config, self.num_steps, self.device = config, num_steps, device
        if config.sync_batch_norm:
            use_global(method)
        if config.trainable == "last_stage":
            _freeze_shallow(method)
        self.optimizer = build_optimizer(method, config.optim)
        self.embedding: Tensor | None = None  # what the last step's images became
        self.guess: Guess | None = None  # what the last step took unlabelled images for
        self._module: nn.Module = method
        if distributed.world_size() > 1:
            ids = [device.index] if device.type == "cuda" else None
            # queues and banks are the same everywhere and large; of local batch statistics the main worker's are kept
            self._module = DistributedDataParallel(method, device_ids=ids, broadcast_buffers=False)
        self._compiled: Callable[..., Losses] = torch.compile(self._module) if config.compile else self._module

    def train_step(self, batch: Mapping[str, Batch], step: int) -> tuple[dict[str, Tensor], float]:
        """Forward, backward and update on this worker's part of a batch; returns the losses' parts and the lr used."""
        lr = self.config.optim.lr * lr_share(self.config.optim.schedule, step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = (lr if group["scheduled"] else self.config.optim.lr) * group["share"]
            if group["decayed"]:
                group["weight_decay"] = weight_decay(self.config.optim, step / self.num_steps)
        self.optimizer.zero_grad(set_to_none=True)
        times = self.config.accumulate
        parts: dict[str, Tensor] = {}
        guesses: list[Guess] = []
        for number in range(times):
            waits = number < times - 1 and isinstance(self._module, DistributedDataParallel)
            with self._module.no_sync() if waits else contextlib.nullcontext():  # pyright: ignore[reportCallIssue]
                losses = self._forward(batch if times == 1 else _part(batch, number, times))
                (losses.total / times).backward()
            self.embedding = losses.embedding
            if losses.guess is not None:
                guesses.append(losses.guess)
            for name, value in losses.parts.items():
                parts[name] = parts[name] + value / times if name in parts else value / times
        self.guess = None
        if guesses:
            self.guess = Guess(torch.cat([g.label for g in guesses]), torch.cat([g.kept for g in guesses]))
        self.method.before_update()
        if self.config.optim.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.method.parameters(), self.config.optim.clip_norm)
        self.optimizer.step()
        return parts, lr

    def _forward(self, batch: Mapping[str, Batch]) -> Losses:
        enabled = self.config.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            return self._compiled(batch)

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser state, whole on every worker."""
        return {"method": self.method.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])


def _part(batch: Mapping[str, Batch], number: int, count: int) -> dict[str, Batch]:
    """One of `count` equal parts of each stream's batch."""

    def cut(x: Tensor | None) -> Tensor | None:
        if x is None:
            return None
        if len(x) % count:
            raise ConfigError(f"accumulate: {count} does not divide a worker's {len(x)} images of a batch")
        size = len(x) // count
        return x[number * size : (number + 1) * size]

    return {
        name: dataclasses.replace(
            whole,
            views=tuple(cut(view) for view in whole.views),
            index=cut(whole.index),
            label=cut(whole.label),
            soft=cut(whole.soft),
            features=cut(whole.features),
        )
        for name, whole in batch.items()
    }


def _freeze_shallow(method: nn.Module) -> None:
    """Leave the last residual stage, its norm and the classifier trainable (FixRes, arXiv:1906.06423, section 3).

    The weights before the last change of resolution stay; their norms keep adapting their statistics.
    """
    parameters = [(n, p) for n, p in method.named_parameters() if p.requires_grad]
    matrices = [n for n, p in parameters if p.ndim > 1]
    last = {n for n in matrices[-max(len(matrices) // 3, 1) :]}
    first = next(i for i, (n, _) in enumerate(parameters) if n in last)
    for _, parameter in parameters[:first]:
        parameter.requires_grad_(False)
