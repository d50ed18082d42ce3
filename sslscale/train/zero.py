"""Training with DeepSpeed's ZeRO: optimiser state (1), gradients too (2), weights too (3) sharded over the workers."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.errors import ConfigError
from sslscale.methods.method import Losses, Method, StepInfo
from sslscale.settings.kinds import ImageText
from sslscale.settings.train import TrainConfig
from sslscale.train.engine import Engine
from sslscale.train.optim import build_optimizer


class ZeroEngine(Engine):
    """DeepSpeed steps the optimiser that every engine has, over its flat shards; weights stay in float32 and autocast
    decides what is computed in bf16, so that the numbers are those of one worker."""

    def __init__(
        self, method: Method, config: TrainConfig, num_steps: int, device: torch.device, *, stage: int, offload: bool
    ):
        self._stage, self._offload = stage, offload
        self.optimizer: Any
        self._engine: Any
        if stage == 3 and isinstance(config.method, ImageText):
            raise ConfigError(
                f"resources.strategy: zero3 cannot train {config.method.name}, whose text tower uses weights outside "
                "their modules: take fsdp or zero2"
            )
        if config.precision == "fp16":
            raise ConfigError("precision: fp16 is for one worker and for ddp: zero trains in bf16 or fp32")
        if config.compile:
            raise ConfigError("compile: not with zero, which changes weights under way; leave it out, or use fsdp")
        if config.optim.name == "lars" and stage:
            raise ConfigError(
                "optim.name: lars needs the norm of each weight, which zero cuts up; use zero0, fsdp or ddp"
            )
        self._plain = copy.deepcopy(method.result).cpu() if stage == 3 and distributed.is_main() else None
        super().__init__(method, config, num_steps, device)

    def _place(self) -> nn.Module:
        import deepspeed

        # for shared-memory collectives on a CPU DeepSpeed would compile C++ for a minute; gloo's serve
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        kind = distributed.backend(cuda=self.device.type == "cuda")
        deepspeed.init_distributed(dist_backend=kind, auto_mpi_discovery=False, dist_init_required=False)
        self.method.to(self.device)
        optimizer = build_optimizer(self.method, self.config.optim)
        self._weights = [p for group in optimizer.param_groups for p in group["params"]]
        zero: dict[str, Any] = {"stage": self._stage}
        if self._stage == 3:
            zero["stage3_param_persistence_threshold"] = 0  # an average of weights moves in its shards: none is whole
        if self._offload:
            where = {"device": "cpu", "pin_memory": self.device.type == "cuda"}
            zero |= {"offload_optimizer": where} | ({"offload_param": where} if self._stage == 3 else {})
        initialize: Any = deepspeed.initialize
        engine, self.optimizer, *_ = initialize(
            model=self.method,
            optimizer=optimizer,
            dist_init_required=False,
            config={
                "train_micro_batch_size_per_gpu": 1,  # images come from our own loader
                "gradient_accumulation_steps": self.config.accumulate,
                "gradient_clipping": self.config.optim.clip_norm or 0.0,
                "zero_optimization": zero,
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
                "steps_per_print": 10**12,
            },
        )
        self._engine = engine
        return engine

    def _before_step(self, info: StepInfo) -> None:
        from deepspeed.utils import safe_set_full_fp32_param

        edited = self.method.edited
        with self._gathered(edited):
            self.method.before_step(info)
            values = [weight.detach().clone() for weight in edited]
        for weight, value in zip(edited, values, strict=True):
            if self._stage:
                safe_set_full_fp32_param(weight, value)

    def _forward_backward(self, batch: Mapping[str, Batch], last: bool) -> Losses:
        losses = self._forward(batch)
        self._engine.backward(losses.total)  # which divides by the number of parts
        if not last:
            self._engine.step()  # counts
        return losses

    def _update(self) -> None:
        """DeepSpeed steps whatever the gradients are: what is not finite is found at the next log or save."""
        from deepspeed import utils

        whole: Any = utils.safe_get_full_fp32_param
        frozen = self.frozen
        if not self._stage:
            for weight in frozen:
                weight.grad = None
            self._engine.step()
            return
        # flat shards cannot leave a weight out: it is put back, and the optimiser forgets what it saw of it
        kept = [whole(weight).clone() for weight in frozen]
        self._engine.step()
        with self._gathered(frozen), torch.no_grad():
            for weight, value in zip(frozen, kept, strict=True):
                weight.copy_(value)
        for weight, value in zip(frozen, kept, strict=True):
            utils.safe_set_full_fp32_param(weight, value)
            for name in self._state_names()[0]:
                utils.safe_set_full_optimizer_state(weight, torch.zeros_like(value), name)

    def _gathered(self, weights: tuple[Tensor, ...], *, modified: bool = True) -> Any:
        """Whole weights inside the block, cut into shards again after it."""
        if self._stage < 3:
            return contextlib.nullcontext()
        import deepspeed

        return deepspeed.zero.GatheredParameters(list(weights), modifier_rank=0 if modified else None)

    def _flat(self) -> Iterator[Tensor]:
        """This worker's shards of the optimiser's weights."""
        if self._stage == 3:
            yield from self.optimizer.fp32_partitioned_groups_flat
        else:
            yield from self.optimizer.single_partition_of_fp32_groups

    def _state_names(self) -> tuple[list[str], dict[str, Any]]:
        """What the optimiser keeps of each weight: the names of tensors like it, and plain numbers."""
        self._link()
        state = self.optimizer.optimizer.state
        first = next((state[flat] for flat in self._flat() if flat.numel() and state.get(flat)), {})
        like = [n for n, v in first.items() if isinstance(v, Tensor) and v.ndim]
        return like, {n: v for n, v in first.items() if n not in like and v is not None}

    def _link(self) -> None:
        """Tell DeepSpeed where the optimiser's state of each weight lies: it does so once the first group has stepped,
        and would not find the others'."""
        if self._stage == 3:
            return
        from deepspeed.utils.mixed_precision_linkage import lazy_init_hp_params_optimizer_state as link

        for weights, flat in zip(self.optimizer.bit16_groups, self._flat(), strict=True):
            if flat in self.optimizer.optimizer.state:
                link(weights, flat, self.optimizer.optimizer.state)

    def network(self) -> nn.Module:
        if self._stage < 3:
            return self.method.result
        return self._whole_network(self._plain, self._whole_weights())

    def _whole_weights(self) -> dict[str, Any]:
        with self._gathered(tuple(self.method.parameters()), modified=False):
            state = self.method.state_dict()
            if self._stage < 3:
                return state
            return {n: v.cpu().clone() if isinstance(v, Tensor) else v for n, v in state.items()}

    def state_dict(self) -> dict[str, Any]:
        from deepspeed import utils

        whole: Any = utils.safe_get_full_optimizer_state
        weights = self._whole_weights()
        if not self._stage:
            return {"method": weights, "optimizer": self.optimizer.state_dict()}
        like, numbers = self._state_names()
        state: dict[int, dict[str, Any]] = {}
        for place, weight in enumerate(self._weights if like else []):
            tensors = {name: whole(weight, name).clone() for name in like}
            state[place] = {**tensors, **copy.deepcopy(numbers)}  # a count that weights share would be counted by each
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        first = 0
        for group, count in zip(groups, self._group_sizes(), strict=True):
            group["params"] = list(range(first, first + count))
            first += count
        return {"method": weights, "optimizer": {"state": state, "param_groups": groups}}

    def _group_sizes(self) -> list[int]:
        known = {id(p): n for n, p in enumerate(self._weights)}
        groups = self.optimizer.fp16_groups if self._stage == 3 else self.optimizer.bit16_groups
        return [sum(id(p) in known for p in group) for group in groups]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        with self._gathered(tuple(self.method.parameters())):
            self.method.load_state_dict(state["method"])
        if not self._stage:
            self.optimizer.load_state_dict(state["optimizer"])
            return
        names = {id(parameter): name for name, parameter in self.method.named_parameters()}
        for weight in self._weights:
            safe_set_full_fp32_param(weight, state["method"][names[id(weight)]].to(self.device))
        saved = state["optimizer"]["state"]
        if not saved:
            return
        some, inner = next(iter(saved.values())), self.optimizer.optimizer
        like = [name for name, value in some.items() if isinstance(value, Tensor) and value.ndim]
        for flat in self._flat():
            numbers = {n: copy.deepcopy(v) for n, v in some.items() if n not in like}
            inner.state[flat] = {**{name: torch.zeros_like(flat) for name in like}, **numbers}
        self._link()
        for place, weight in enumerate(self._weights):
            for name, value in saved.get(place, {}).items():
                if name in like:
                    safe_set_full_optimizer_state(weight, value.to(self.device), name)
