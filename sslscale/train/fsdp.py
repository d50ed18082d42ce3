"""Training with weights, gradients and optimiser state sharded over the workers: PyTorch's FSDP2."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import _BatchNorm

from sslscale import distributed
from sslscale.data.batch import Batch
from sslscale.errors import ConfigError
from sslscale.methods.method import Losses, Method
from sslscale.settings.train import TrainConfig
from sslscale.train import checkpoint
from sslscale.train.blocks import blocks
from sslscale.train.engine import Engine
from sslscale.train.optim import build_optimizer


class FSDPEngine(Engine):
    """Each worker keeps a part of every weight; a block's weights are whole only while it computes.

    With `parts` each worker writes its own part of a checkpoint: what is too large for one.
    """

    def __init__(
        self,
        method: Method,
        config: TrainConfig,
        num_steps: int,
        device: torch.device,
        *,
        offload: bool,
        parts: bool = False,
    ):
        if config.precision == "fp16":
            raise ConfigError(
                "precision: fp16 needs a loss scale that knows of all shards: fsdp trains in bf16 or fp32"
            )
        self._offload, self._parts = offload, parts
        # the same network, whole, for what one worker does with it
        self._plain = copy.deepcopy(method.result).cpu() if distributed.is_main() else None
        super().__init__(method, config, num_steps, device)

    def _place(self) -> nn.Module:
        mesh = init_device_mesh(self.device.type, (dist.get_world_size(),))
        policy = CPUOffloadPolicy(pin_memory=self.device.type == "cuda") if self._offload else OffloadPolicy()
        self.method.to(self.device)
        for block in blocks(self.method):
            fully_shard(block, mesh=mesh, offload_policy=policy, mp_policy=self._precision(block))
        fully_shard(self.method, mesh=mesh, offload_policy=policy)
        # a method may differentiate inside its forward (VAT): what it goes on with must not be gone by then
        self.method.set_reshard_after_backward(False, recurse=False)  # pyright: ignore[reportCallIssue]
        self.optimizer = build_optimizer(self.method, self.config.optim)
        return self.method

    def _precision(self, block: nn.Module) -> MixedPrecisionPolicy:
        """With bf16 the weights of a block are gathered in bf16, half the bytes, and gradients are summed in float32.

        Activations are left to autocast. Norms that need float32 weights keep their whole block in float32.
        """
        if self.config.precision != "bf16" or any(isinstance(m, self._float32_norms()) for m in block.modules()):
            return MixedPrecisionPolicy()
        return MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)

    def _float32_norms(self) -> tuple[type[nn.Module], ...]:
        """Autocast runs layer norm in float32 on GPUs alone; batch norm it does not cast anywhere."""
        return (_BatchNorm,) if self.on_gpu else (_BatchNorm, nn.LayerNorm)

    def _forward_backward(self, batch: Mapping[str, Batch], last: bool) -> Losses:
        assert isinstance(self.method, FSDPModule)
        self.method.set_requires_gradient_sync(last)
        return super()._forward_backward(batch, last)

    def _update(self) -> Tensor | None:
        assert isinstance(self.method, FSDPModule)
        self.method.reshard()
        return super()._update()

    def network(self) -> nn.Module:
        return self._whole_network(self._plain, self._whole_weights())

    def _whole_weights(self) -> dict[str, Any]:
        return {name: _whole(value) for name, value in self.method.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        optimizer = self.optimizer.state_dict()
        state = {n: {k: _whole(v) for k, v in own.items()} for n, own in optimizer["state"].items()}
        return {"method": self._whole_weights(), "optimizer": {**optimizer, "state": state}}

    def save(self, folder: Path, step: int, loader: Mapping[str, Any]) -> None:
        if not self._parts:
            return super().save(folder, step, loader)
        state = {"method": self.method.state_dict(), "optimizer": self.optimizer.state_dict(), "loader": loader}
        checkpoint.save_parts(folder, step, state)
        distributed.barrier()

    def load(self, folder: Path) -> tuple[int, Any] | None:
        like = {"method": self.method.state_dict(), "optimizer": self._trainable()}
        found = checkpoint.load_state(folder, self.device, like)
        if found is None:
            return None
        self.load_state_dict(found[1])
        return found[0], found[1]["loader"]

    def _trainable(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        weights = self.method.state_dict()
        self.method.load_state_dict({n: _as(weights.get(n), v) for n, v in state["method"].items()})
        parameters = self._trainable()
        own = {n: {k: _as(parameters[n], v) for k, v in s.items()} for n, s in state["optimizer"]["state"].items()}
        self.optimizer.load_state_dict({**state["optimizer"], "state": own})


def _whole(value: Any) -> Any:
    """All of a sharded tensor on the main worker, whose memory is the host's; nothing on the others."""
    if not isinstance(value, DTensor):
        return value
    whole = value.full_tensor()
    return whole.cpu() if distributed.is_main() else None


def _as(like: Any, value: Any) -> Any:
    """This worker's part of a whole tensor, sharded as `like` is."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    if isinstance(value, DTensor):
        return value
    whole = value.to(like.to_local().device)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
