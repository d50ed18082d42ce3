"""A device on which the host may not wait: tensors without content, and an error at every operation that would wait.

Tensors of DEVICE are torch's fake tensors; all others are real, so that what is decided on the host is decided. It is
`cpu:0`, which torch keeps apart from `cpu`, so that a backward pass runs without a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("cpu", 0)
_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class HostWaits(AssertionError):
    """The host would wait for the device, or a tensor is on the wrong one."""


_FAKE = FakeTensorMode()  # one for all: constants that were sent to the device stay there


class Device(TorchDispatchMode):
    """Runs what touches DEVICE on fake tensors; raises HostWaits where the host would wait."""

    fake = _FAKE

    def move(self, module: torch.nn.Module) -> None:
        """Put a module's weights and buffers on DEVICE."""
        for part in module.modules():
            for name, weight in part._parameters.items():
                if weight is not None:
                    part._parameters[name] = torch.nn.Parameter(self.put(weight), requires_grad=weight.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = self.put(buffer)

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of DEVICE like a real one."""
        with self.fake:
            return torch.empty(tensor.shape, dtype=tensor.dtype, device=DEVICE)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        there = [isinstance(x, FakeTensor) for x in tensors]
        asked = kwargs.get("device")
        to_device = asked is not None and torch.device(asked) == DEVICE
        if func in _COPIES and len(tensors) == 2 - (func is _COPIES[0]):
            source = tensors[-1]
            if func is _COPIES[0]:
                return self._copied(func, args, kwargs, source, to_device)
            if there[0] != there[1] and source.ndim:
                if not (kwargs.get("non_blocking") or (len(args) > 2 and args[2])):
                    raise HostWaits(f"a copy between host and device that waits: {func}")
                return args[0]
        if not any(there) and not to_device:
            return func(*args, **kwargs)
        if asked is not None and any(there) and not to_device:
            raise HostWaits(f"{func} asks for {asked}, its inputs are on the device")
        args, kwargs = tree_map_only(torch.Tensor, self._scalar, (args, kwargs))
        try:
            with self.fake:
                return func(*args, **kwargs)
        except Exception as error:
            name = type(error).__name__
            if name in ("DataDependentOutputException", "DynamicOutputShapeException", "FakeTensorDeviceMismatchError"):
                raise HostWaits(f"the host waits in {func}: {name}") from error
            if "convert all Tensors to FakeTensors" in str(error):
                raise HostWaits(f"{func} mixes tensors of host and device") from error
            raise

    def _copied(self, func: Any, args: Any, kwargs: Any, source: torch.Tensor, to_device: bool) -> Any:
        on_device = isinstance(source, FakeTensor)
        to_host = on_device and kwargs.get("device") is not None and not to_device
        if to_host:
            raise HostWaits("a copy to the host")
        if not on_device and to_device:
            if not kwargs.get("non_blocking") and source.ndim:
                raise HostWaits("a copy to the device that waits")
            with self.fake:
                return torch.empty(source.shape, dtype=kwargs.get("dtype") or source.dtype, device=DEVICE)
        if on_device:
            with self.fake:
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _scalar(self, x: torch.Tensor) -> torch.Tensor:
        """A number of the host, which a kernel is given by value."""
        return self.fake.from_tensor(x.detach()) if not isinstance(x, FakeTensor) and x.ndim == 0 else x
