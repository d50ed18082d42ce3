"""The engine of a training: placement, precision, gradients and weights, for any number of processes.

This engine is for one worker and for DistributedDataParallel; train/fsdp.py and train/zero.py shard the weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.errors import ConfigError
from sslscale.graph.resources import Resources
from sslscale.methods.method import Losses, Method, PseudoLabels, StepInfo
from sslscale.nn.batch_norm import use_global
from sslscale.settings.train import TrainConfig
from sslscale.train import checkpoint
from sslscale.train.allocator import keep_freed_memory
from sslscale.train.first_weights import backbones
from sslscale.train.optim import build_optimizer, lr_share, step_if, weight_decay


def best_device(resources: Resources | None = None) -> torch.device:
    """This worker's GPU if there is one and its resources do not say 0, else the CPU."""
    if (resources is not None and resources.gpus_per_worker == 0) or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def set_up(device: torch.device, *, deterministic: bool = False) -> None:
    """Choose how a GPU computes: TF32 in products of float32, and the convolutions that are fastest here, or with
    `deterministic` those that give the same bits in every run on the same GPU."""
    if device.type == "cpu":
        return
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


class Engine:
    """Trains one method on this worker, alone or with others by DistributedDataParallel."""

    def __init__(self, method: Method, config: TrainConfig, num_steps: int, device: torch.device):
        self.method, self.config, self.num_steps, self.device = method, config, num_steps, device
        self.on_gpu = self._is_gpu(device)
        if device.type == "cpu":
            keep_freed_memory()
        self.embedding: Tensor | None = None  # what the last step's images became
        self.pseudo_labels: PseudoLabels | None = None  # of the last step
        self.skipped = torch.zeros((), device=device)  # updates left out, as their gradients were not finite
        self.first_skipped = torch.full((), -1, device=device, dtype=torch.int64)  # the step of the first of them
        if config.sync_batch_norm:
            use_global(method, on_gpu=self.on_gpu)
        if config.trainable == "last_stage":
            _freeze_shallow(method)
        frozen_first = backbones(method) if config.freeze_backbone_steps else []
        self._scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self._module = self._place()
        weights = [weight for part in frozen_first for weight in part.parameters()]
        self._backbone = tuple(weight for weight in weights if weight.requires_grad)
        self._compiled: Callable[..., Losses] = self._module
        if config.compile:
            self._compile()

    def _compile(self, backend: str = "inductor") -> None:
        """Compile what the method does in a step; what it draws for it stays on the host."""
        if type(self.method).step is not Method.step:
            self.method.step = torch.compile(self.method.step, backend=backend)
        else:
            self._compiled = torch.compile(self._module, backend=backend)

    @staticmethod
    def _is_gpu(device: torch.device) -> bool:
        return device.type != "cpu"

    def _place(self) -> nn.Module:
        """Bring the weights to their device, make the optimiser, and return the module that is called."""
        self.method.to(self.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.optimizer = build_optimizer(self.method, self.config.optim, fused=self.on_gpu)
        if distributed.world_size() == 1:
            return self.method
        ids = [self.device.index] if self.device.type == "cuda" else None
        # queues and banks are the same everywhere and large; of local batch statistics the main worker's are kept
        return DistributedDataParallel(
            self.method, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
        )

    def train_step(self, batch: Mapping[str, Batch], info: StepInfo) -> tuple[dict[str, Tensor], float]:
        """Forward, backward and update on this worker's part of a batch; returns the losses' parts and the lr used.

        Gradients that are not finite change no weight: whether they are is known on the device, where nobody waits for
        it, and counted in `skipped`. Where such steps may be passed over, the buffers are put back too.
        """
        optim, step = self.config.optim, info.step
        lr = optim.lr * lr_share(optim.schedule, step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = (lr if group["scheduled"] else optim.lr) * group["share"]
            if group["decayed"]:
                group["weight_decay"] = weight_decay(optim, step / self.num_steps)
        self._expect(batch)
        self._before_step(info)
        kept = {n: b.clone() for n, b in self.method.named_buffers()} if self.config.max_skipped_steps else {}
        times = self.config.accumulate
        parts: dict[str, Tensor] = {}
        found: list[PseudoLabels] = []
        for number in range(times):
            losses = self._forward_backward(batch if times == 1 else _part(batch, number, times), number == times - 1)
            self.embedding = losses.embedding
            if losses.pseudo_labels is not None:
                found.append(losses.pseudo_labels)
            for name, value in losses.parts.items():
                parts[name] = parts[name] + value / times if name in parts else value / times
        self.pseudo_labels = None
        if found:
            self.pseudo_labels = PseudoLabels(torch.cat([p.label for p in found]), torch.cat([p.weight for p in found]))
        finite = self._update()
        self._after_step(step + 1)
        if finite is not None:
            self._count(finite, step)
            for name, buffer in self.method.named_buffers() if kept else ():
                buffer.copy_(torch.where(finite, buffer, kept[name]))
            if kept:
                parts = {name: torch.where(finite, value, 0.0) for name, value in parts.items()}
        return parts, lr

    def gradients(self, batch: Mapping[str, Batch], info: StepInfo) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The losses' parts of one batch, and the gradient of each weight; nothing is updated."""
        self._expect(batch)
        self._before_step(info)
        losses = self._forward_backward(batch, last=True)
        named = {n: p.grad for n, p in self.method.named_parameters() if p.grad is not None}
        return dict(losses.parts), named

    @torch.no_grad()
    def _count(self, finite: Tensor, step: int) -> None:
        finite = finite.to(self.device, non_blocking=True)
        self.skipped += (~finite).float()
        first = (self.first_skipped < 0) & ~finite
        self.first_skipped.masked_fill_(first, step)

    def _expect(self, batch: Mapping[str, Batch]) -> None:
        """Say how many images all workers together have: their parts may differ by one."""
        world = distributed.world_size()
        totals = [
            world * len(part.index) if part.global_numbers is None else len(part.global_numbers)
            for part in batch.values()
        ]
        if self.config.accumulate > 1 and any(total % world for total in totals):
            raise ConfigError(
                f"accumulate: the batches do not divide over {world} workers; choose batch sizes that are multiples of "
                "accumulate times the number of workers"
            )
        distributed.expect([] if self.config.accumulate > 1 else totals)

    def _before_step(self, info: StepInfo) -> None:
        self.method.before_step(info)
        self.optimizer.zero_grad(set_to_none=True)

    def _forward_backward(self, batch: Mapping[str, Batch], last: bool) -> Losses:
        waits = not last and isinstance(self._module, DistributedDataParallel)
        with self._module.no_sync() if waits else contextlib.nullcontext():  # pyright: ignore[reportCallIssue]
            losses = self._forward(batch)
            self._scaler.scale(losses.total / self.config.accumulate).backward()
        return losses

    def _update(self) -> Tensor | None:
        """Step the optimiser unless the gradients are not finite; whether they are, bool (), where it is known.

        With a loss scale (fp16) it is the scale that decides: gradients that overflow are of its everyday work.
        """
        for weight in self.frozen:
            weight.grad = None
        if self._scaler.is_enabled():
            if self.config.optim.clip_norm is not None:
                self._scaler.unscale_(self.optimizer)
                nn.utils.clip_grad_norm_(self.method.parameters(), self.config.optim.clip_norm)
            self._scaler.step(self.optimizer)
            self._scaler.update()
            return None
        weights = [weight for weight in self.method.parameters() if weight.grad is not None]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.config.optim.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(weights, self.config.optim.clip_norm, norm)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        finite = norm.isfinite()
        step_if(self.optimizer, finite, on_gpu=self.on_gpu and finite.device == self.device)
        return finite

    @property
    def frozen(self) -> tuple[Tensor, ...]:
        """The weights that must stay as they are in this step."""
        if self.method.step_info.step >= self.config.freeze_backbone_steps:
            return self.method.frozen
        return *self.method.frozen, *self._backbone

    def _after_step(self, step: int) -> None:
        self.method.after_step(step, step / self.num_steps)

    def _forward(self, batch: Mapping[str, Batch]) -> Losses:
        enabled = self.config.precision != "fp32"
        kind = torch.float16 if self.config.precision == "fp16" else torch.bfloat16
        with torch.autocast(self.device.type, kind, enabled=enabled):
            return self._compiled(batch)

    def network(self) -> nn.Module:
        """The method's network with all its weights, of use on the main worker alone; called on all workers."""
        return self.method.result

    def _whole_network(self, plain: nn.Module | None, weights: Mapping[str, Any]) -> nn.Module:
        """`plain`, the main worker's copy of the method's network, with its share of the method's whole `weights`."""
        result = self.method.result
        if plain is None:
            return result
        (name,) = [name for name, module in self.method.named_modules() if module is result][:1]
        prefix = f"{name}." if name else ""
        plain.load_state_dict({n.removeprefix(prefix): v for n, v in weights.items() if n.startswith(prefix)})
        return plain.to(self.device).train(result.training)

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser state, whole, of use on the main worker alone; called on all workers."""
        state = {"method": self.method.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {**state, "scaler": self._scaler.state_dict()} if self._scaler.is_enabled() else state

    def save(self, folder: Path, step: int, loader: Mapping[str, Any]) -> None:
        """Write a state to go on from; called on all workers."""
        state = self.state_dict()
        if distributed.is_main():
            checkpoint.save_state(folder, step, {**state, "loader": loader})
        distributed.barrier()

    def load(self, folder: Path) -> tuple[int, Any] | None:
        """Go on from the newest state, if there is any: the step, and the place of the loader."""
        found = checkpoint.load_state(folder, self.device)
        if found is None:
            return None
        self.load_state_dict(found[1])
        return found[0], found[1]["loader"]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state of a checkpoint, written by whatever engine and number of workers."""
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self._scaler.is_enabled() and "scaler" in state:
            self._scaler.load_state_dict(state["scaler"])


def _part(batch: Mapping[str, Batch], number: int, count: int) -> dict[str, Batch]:
    """One of `count` equal parts of each stream's batch."""

    def cut(x: Tensor) -> Tensor:
        if len(x) % count:
            raise ConfigError(f"accumulate: {count} does not divide a worker's {len(x)} images of a batch")
        size = len(x) // count
        return x[number * size : (number + 1) * size]

    return {
        name: dataclasses.replace(
            whole,
            views=tuple(cut(view) for view in whole.views),
            index=cut(whole.index),
            fields={name: cut(x) for name, x in whole.fields.items()},
            global_numbers=None if whole.global_numbers is None else _cut_all(whole.global_numbers, number, count),
        )
        for name, whole in batch.items()
    }


def _cut_all(numbers: Tensor, number: int, count: int) -> Tensor:
    """The part of each worker's images in a list of all workers'."""
    return numbers.view(distributed.world_size(), count, -1)[:, number].flatten()


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
